"""Train a prior, a UNet that predicts the noise in noisy images, on a folder or zip file of images.

    python train.py --config configs/model_config_demo.yaml --data faces.zip --out models/demo.pt
    python train.py --config … --data photos/ --held-out others/ --out models/mine.pt
    python train.py --config … --data photos/ --out models/mine.pt --steps 50000 --bf16 --compile
    python train.py --config … --data photos/ --out models/mine.pt --init models/demo.pt --seed 1
    python train.py --config … --data photos/ --out models/photo.pt --patches 40000 --grey 0.1
    torchrun --nproc-per-node 4 train.py --config … --data faces.zip --out models/demo.pt

Writes the averaged weights as a state dict on the CPU to OUT. The files *_samples.png, samples from
the prior, and *_errors.csv, the network's mean squared errors, which the samplers read, are written
next to OUT. The training state is saved in OUT.training; to resume an interrupted training, repeat
the command.
"""

import copy
import hashlib
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from experiment.folder import checkpoint_digest, differences
from experiment.runner import join_group
from guided_diffusion.ddim import Chain, linear_alphas_cumprod
from guided_diffusion.errors import by_frequency, dct, errors_path, write_errors
from guided_diffusion.prior import build_model, load_model_config, load_prior
from training.data import SIGMAS, read_held_out, read_training, training_batch
from training.optimizer import Optimizer, learning_rate_factor
from util.cli import Parser, number, run_script, typed_path
from util.devices import choose_device, compile_network
from util.files import UserError, here_or_project, save_tensors, say
from util.images import save_image, tile
from util.rng import LAST_SEED, BatchRandom

EMA_DECAY = 0.999
GRADIENT_NORM = 1.0
SAVE_EVERY = 180  # seconds
ERRORS_AT = [0, 1, 2, 3, 5, 8, 12, 20, 35, 56, 80, 120, 170, 230, *range(300, 1000, 100), 999]
SETTINGS = ("batch_size", "lr", "seed", "bf16", "grey")  # options that a resumed training keeps


def noise_prediction_loss(network, x0, noise, timesteps, alphas_cumprod, bf16):
    """mean w (eps(sqrt(abar) x_0 + sqrt(1 - abar) noise, t) - noise)^2 with w = 1 / sqrt(abar): the
    geometric mean of w = 1 (Ho et al. 2020, eq. 14), which neglects noisy timesteps, and
    w = 1 / abar (the v-prediction of Salimans & Ho 2022)."""
    abar = alphas_cumprod[timesteps][:, None, None, None]
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=bf16):
        eps = network(x_t, timesteps)[:, :3]
    return (abar.rsqrt() * (eps.float() - noise).square()).mean()


def resume(path, modules, settings, device):
    """Load the training saved in `path` into `modules`, {name: object with load_state_dict};
    returns its progress, or None if there is no file. Raises UserError for a file of another kind,
    and for a training with other settings."""
    if not os.path.exists(path):
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        before, progress = state["begun_with"], state["progress"]
        for name, module in modules.items():
            module.load_state_dict(state[name])
    except (OSError, torch.OutOfMemoryError):  # not the file's fault
        raise
    except Exception as error:  # unpickling other files raises many classes
        raise UserError(
            f"{path}: is not a training of this config; remove it to start anew"
        ) from error
    for key, old, new in differences(before, settings):
        raise UserError(
            f"{path}: was started with {key} {old}, now it is {new}; keep it or use another --out"
        )
    return progress


@torch.no_grad()
def write_samples(model, size, device, path):
    """Write a grid of 32 unconditional samples, generated with 10 DDIM steps."""
    rng = BatchRandom(range(32))
    x = rng.randn((3, size, size), device)
    for g in Chain(model.eval(), 10, rng):
        x = g(x)
    save_image(path, tile([list(x[i : i + 8]) for i in range(0, 32, 8)]))


@torch.no_grad()
def measure_errors(model, images, kind, device, path):
    """Write the table of `guided_diffusion.errors`: the mean squared error of x0_hat for images,
    (n, 3, H, W) uint8, with added noise. kind: a description of the images."""
    g, sigmas = Chain(model, 1, BatchRandom([0])), SIGMAS[ERRORS_AT].tolist()
    variances = []
    for sigma in tqdm(sigmas, desc="measuring errors", unit="sigma", disable=None):
        squares = 0
        for image in images:
            x = (image[None].to(device) / 127.5 - 1).float()
            x0_hat = g.denoised(x + sigma * g.rng.randn(x.shape[1:], device), sigma)
            squares = squares + dct(x0_hat - x)[0].square().double() / len(images)
        variances.append(by_frequency(squares.cpu().numpy()))
    about = f"mean squared error of {os.path.basename(path)} by train.py, {len(images)} {kind}"
    write_errors(errors_path(path), sigmas, variances, about)


def parse_arguments():
    parser = Parser(__doc__)
    add, count = parser.add_argument, number(int, 1)
    config = "the model config, configs/model_config_*.yaml"
    add("--config", type=here_or_project, required=True, help=config)
    add("--data", type=typed_path, required=True, help="folder or zip file of images")
    add("--out", type=typed_path, required=True, help="the checkpoint to write")
    add(
        "--held-out",
        type=typed_path,
        metavar="DIR|ZIP",
        help="images for the table of errors (default: the training images)",
    )
    add(
        "--patches",
        type=count,
        metavar="N",
        help="train on N patches of large images, at scales from 1 to 1/8, instead of whole images",
    )
    side = "side of the patches (default: the config's image_size)"
    add("--patch", type=number(int, 8), metavar="PX", help=side)
    add("--grey", type=number(float, 0, 1), default=0.0, help="share of grey images (default 0)")
    add("--init", type=typed_path, help="checkpoint with initial weights (default: random)")
    add("--steps", type=count, default=9500, help="total number of steps (default 9500)")
    add("--batch-size", type=count, default=16, help="images per step and process (default 16)")
    add("--lr", type=number(float, 0), default=1e-3, help="maximal learning rate (default 1e-3)")
    add("--seed", type=number(int, 0, LAST_SEED), default=0, help="random seed (default 0)")
    add("--only-errors", action="store_true", help="do not train, only write *_errors.csv")
    add(
        "--bf16", action="store_true", help="bfloat16 autocast: faster if the processor supports it"
    )
    add(
        "--compile", action="store_true", help="torch.compile: a third faster after a minute or two"
    )
    add("--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)")
    args = parser.parse_args()
    if args.patch and not args.patches:
        parser.error("argument --patch: requires --patches, the number of patches")
    return args


def refuse_spoilt(loss, average, step, path):
    """Raise UserError if the mean loss or the averaged weights are not finite: they cannot recover,
    and must not overwrite the training saved in `path`."""
    norms = torch.stack(torch._foreach_norm(list(average.parameters())))
    if not (torch.isfinite(loss) & torch.isfinite(norms).all()):
        raise UserError(
            f"step {step}: the loss or the weights are not finite any more; {path} holds the last "
            "finite ones. Resume without --compile, or choose another --out and a lower --lr, or "
            "omit --bf16"
        )


def run_steps(args, network, modules, images, progress, save, rank, device):
    """Train from progress["step"] to args.steps, calling save(progress) every few minutes; returns
    the progress. network: modules["model"], possibly compiled or wrapped."""
    model, ema, optimizer = modules["model"], modules["ema"], modules["optimizer"]
    alphas_cumprod = linear_alphas_cumprod().to(device)
    loss_mean = torch.tensor(progress["loss"], device=device)
    last = saved = time.time()
    options = {"unit": "step", "disable": rank > 0 or None, "mininterval": 1}
    bar = tqdm(total=args.steps, initial=progress["step"], **options)
    for step in range(progress["step"], args.steps):
        batch = training_batch(images, args.batch_size, step, rank, args.seed, device, args.grey)
        loss = noise_prediction_loss(network, *batch, alphas_cumprod, args.bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step(learning_rate_factor(step, args.steps))
        # Average fewer steps at first, so that the random initial weights are forgotten.
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():  # otherwise it would store the graphs of all steps
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        loss_mean.lerp_(loss.detach(), 0.01)
        now = time.time()
        spent = progress["seconds"] + now - last
        progress = {"step": step + 1, "seconds": spent, "loss": progress["loss"]}
        last = now
        bar.update()
        due = rank == 0 and now - saved > SAVE_EVERY
        if due or (step + 1) % 20 == 0 or step + 1 == args.steps:  # a GPU waits for the loss
            refuse_spoilt(loss_mean, ema, step + 1, args.out + ".training")
            bar.set_postfix(loss=f"{loss_mean.item():.4f}", refresh=False)
        if due:
            progress["loss"] = loss_mean.item()
            save(progress)
            saved = now
            if bar.disable:  # not a terminal
                say(f"step {step + 1} of {args.steps}, {described(progress)}")
    bar.close()
    return {**progress, "loss": loss_mean.item()}


def described(progress):
    return f"{progress['seconds'] / 3600:.2f} h, loss {progress['loss']:.4f}"


def load_weights(path, args, config, device):
    """The frozen network with the weights of a checkpoint."""
    return load_prior({**config, "model_path": os.path.abspath(path)}, args.config, device)


def settings_of(args, images, world, config):
    """The settings that a resumed training must share; files by content, as they may have moved."""
    digest = hashlib.blake2b(images.numpy(), digest_size=8).hexdigest()
    return {
        **{key: getattr(args, key) for key in SETTINGS},
        "data": {"content": f"{len(images)} images, digest {digest}"},
        "init": {"digest": checkpoint_digest(args.init)} if args.init else None,
        "processes": world,
        "model": config,
    }


def write_all(args, ema, held_out, size, device):
    """Write the averaged weights, samples and errors; returns the paths."""
    state, samples = ema.state_dict(), os.path.splitext(args.out)[0] + "_samples.png"
    for name, tensor in state.items():
        state[name] = tensor.cpu()  # so that a machine without a GPU can load it
    save_tensors(args.out, state)
    write_samples(ema, size, device, samples)
    measure_errors(ema, *held_out, device, args.out)
    return f"{args.out}, {samples} and {errors_path(args.out)}"


def only_errors(args, config, device):
    """--only-errors: measure the errors of the checkpoint --out."""
    model, size = load_weights(args.out, args, config, device), config["image_size"]
    images = None if args.held_out else read_training(args, size, model.stride)
    measure_errors(model, *read_held_out(args, size, model.stride, images), device, args.out)
    print(f"wrote {errors_path(args.out)}")


def train(args, config, device, rank, world):
    """Train or resume; rank, world: this process and the number of processes."""
    size = config["image_size"]
    if args.init:
        model = load_weights(args.init, args, config, device).train().requires_grad_(True)
    else:
        model = build_model(config, args.config).to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    images = read_training(args, size, model.stride)
    held_out = read_held_out(args, size, model.stride, images) if rank == 0 else None
    state_path = args.out + ".training"
    modules = {"model": model, "ema": ema, "optimizer": Optimizer(model, args.lr)}
    settings = settings_of(args, images, world, config)
    progress = resume(state_path, modules, settings, device)
    if progress and rank == 0:
        print(f"{state_path}: resuming from step {progress['step']}, {described(progress)}")
    progress = progress or {"step": 0, "seconds": 0.0, "loss": 1.0}  # loss: a running mean

    def save(progress):
        states = {name: module.state_dict() for name, module in modules.items()}
        save_tensors(state_path, {**states, "progress": progress, "begun_with": settings})

    if rank == 0:
        try:
            save(progress)  # fails at once if the folder is not writable
        except OSError as error:
            raise UserError(f"{state_path}: cannot be written ({error.strerror})") from error
    network = model
    if world > 1:
        group = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo")
        network = DistributedDataParallel(model, process_group=group)
    if args.compile:
        network = compile_network(network, device)
    progress = run_steps(args, network, modules, images, progress, save, rank, device)
    if rank == 0:
        save(progress)
        written = write_all(args, ema, held_out, size, device)
        print(f"{progress['step']} steps, {described(progress)}: wrote {written}")


def main():
    args = parse_arguments()
    rank, world = join_group()
    device = choose_device(-1 if args.cuda == -1 else int(os.environ.get("LOCAL_RANK", args.cuda)))
    torch.manual_seed(args.seed)  # the same initial weights on every rank
    config = load_model_config(args.config)
    if args.only_errors:
        return only_errors(args, config, device)
    train(args, config, device, rank, world)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    run_script(main)
