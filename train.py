"""Train a prior, a UNet that predicts the noise in noisy images, on a folder or zip file of images.

    python train.py --config configs/model_config_demo.yaml --data faces.zip --out models/demo.pt
    python train.py --config … --data photos/ --held-out others/ --out models/mine.pt
    python train.py --config … --data photos/ --out models/mine.pt --steps 50000 --bf16 --compile
    python train.py --config … --data photos/ --out models/mine.pt --init models/demo.pt --seed 1
    python train.py --config … --data photos/ --out models/photo.pt --patches 40000 --grey 0.1
    torchrun --nproc-per-node 4 train.py --config … --data faces.zip --out models/demo.pt

Writes OUT (the averaged weights, a state dict on the CPU) and, next to it, *_samples.png (samples
from the prior) and *_errors.csv (the network's mean squared errors, which the samplers read). The
state of the training is saved in OUT.training; to resume an interrupted one, repeat the command.
"""

import copy
import hashlib
import io
import math
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from experiment.folder import checkpoint_digest, differences
from experiment.runner import join_group
from guided_diffusion.ddim import TRAINING_STEPS, Chain, chain_timesteps, linear_alphas_cumprod
from guided_diffusion.errors import by_frequency, dct, errors_path, write_errors
from guided_diffusion.prior import build_model, load_model_config, load_prior
from util.cli import Parser, number, run_script, typed_path
from util.devices import available_memory, choose_device, compile_network
from util.files import PictureError, UserError, here_or_project, save_tensors, say, warn
from util.images import SUFFIXES, find_images, open_rgb, save_image, say_unread, split_names, tile
from util.rng import LAST_SEED, BatchRandom

WARM_UP = 200  # steps of increasing learning rate
COOL_DOWN = 0.3  # share of the steps, at the end, with decreasing learning rate
EMA_DECAY = 0.999
GRADIENT_NORM = 1.0
MOST_SHRUNK = 8  # largest reduction of a patch
LEAST_SIGMA, SMALL_SIGMA = 0.01, 0.5  # small noise relative to [-1, 1]: t = 0 … 136
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)
SAVE_EVERY = 180  # seconds
ERRORS_OF = 256  # images for the table of errors
ERRORS_AT = [0, 1, 2, 3, 5, 8, 12, 20, 35, 56, 80, 120, 170, 230, *range(300, 1000, 100), 999]
SIGMAS = ((1 - linear_alphas_cumprod()) / linear_alphas_cumprod()).sqrt()  # of each timestep
SETTINGS = ("batch_size", "lr", "seed", "bf16", "grey")  # options that a resumed training keeps


def find_data(path):
    """A folder or zip of images -> (names, read): read(name) decodes one of them to RGB."""
    if os.path.isdir(path):
        files, others = find_images(path)
    elif os.path.isfile(path) and zipfile.is_zipfile(path):  # a device may never end
        archive = zipfile.ZipFile(path)
        files, others = split_names(name for name in archive.namelist() if not name.endswith("/"))
    else:
        raise UserError(f"{path}: is no folder or zip file of images; name one with --data")
    if not files:
        raise UserError(f"{path}: has no images ({', '.join(SUFFIXES)})")
    say_unread(path, others)

    def read(name):
        try:
            content = Path(path, name).read_bytes() if os.path.isdir(path) else archive.read(name)
        except (zipfile.BadZipFile, RuntimeError, OSError) as error:  # RuntimeError: encrypted
            raise PictureError(f"{name}: cannot be read ({error})") from error
        return open_rgb(io.BytesIO(content), name)

    return files, read


def usable_images(path, files, read, size):
    """Yield (index, image) of the `files` that can be decoded and are `size` px or more a side;
    warns of each of the others. Raises UserError without any."""
    left_out = []
    for i, name in enumerate(tqdm(files, desc="reading images", unit="image", disable=None)):
        try:
            image = read(name)
        except PictureError as error:
            left_out.append(str(error))
            continue
        if min(image.size) < size:
            width, height = image.size
            left_out.append(f"{name}: {width} x {height} px, would have to be enlarged to {size}")
        else:
            yield i, image
    for line in left_out:
        warn(f"{path}: left out: {' '.join(line.split())}")
    if len(left_out) == len(files):
        raise UserError(f"{path}: none of its {len(files)} images can be used; see the warnings")


def allocated(path, count, size):
    """An empty (count, 3, size, size) uint8. Raises UserError for more than there is memory."""
    needed, free = 3.0 * count * size**2 / 2**30, available_memory(torch.device("cpu")) / 2**30
    if needed > free:
        raise UserError(
            f"{path}: {count} images or patches of {size} x {size} px need {needed:.1f} GiB of "
            f"memory, {free:.1f} GiB are free; train on fewer --patches or smaller ones (--patch)"
        )
    return np.empty((count, 3, size, size), np.uint8)


def load_images(path, size):
    """A folder or zip of images -> (n, 3, size, size) uint8, cropped to the central square."""
    files, read = find_data(path)
    images, count = allocated(path, len(files), size), 0
    for _, image in usable_images(path, files, read, size):
        square = ImageOps.fit(image, (size, size), Image.LANCZOS)
        images[count] = np.asarray(square).transpose(2, 0, 1)
        count += 1
    return torch.from_numpy(images[:count])


def patch_box(width, height, size, rng):
    """A random square (left, top, right, bottom) within an image, its side log-uniform from `size`
    to MOST_SHRUNK times that, or to the image's shorter side, which is `size` or more."""
    largest = min(MOST_SHRUNK * size, width, height)
    side = size * (largest / size) ** rng.random()
    left, top = (width - side) * rng.random(), (height - side) * rng.random()
    return left, top, left + side, top + side


def cut_patches(path, size, count, seed):
    """A folder or zip of images -> (n, 3, size, size) uint8: equally many random patches
    (`patch_box`) of each, `count` in all or, if images are left out, fewer. Decodes one image at a
    time to save memory."""
    files, read = find_data(path)
    patches, is_cut = allocated(path, count, size), np.zeros(count, bool)
    for i, image in usable_images(path, files, read, size):
        rng = np.random.default_rng((seed, i))
        for patch in patches[i :: len(files)]:
            box = patch_box(*image.size, size, rng)
            patch[:] = np.asarray(image.resize((size, size), Image.LANCZOS, box)).transpose(2, 0, 1)
        is_cut[i :: len(files)] = True
    if not is_cut.any():  # fewer patches than images
        raise UserError(f"{path}: --patches {count}: no image that can be used has one; cut more")
    return torch.from_numpy(patches if is_cut.all() else patches[is_cut])


def read_data(args, image_size, stride, path, patches):
    """The images of `path` or, if `patches` is not None, so many patches of them:
    (n, 3, side, side) uint8.

    Raises UserError unless `stride` divides --patch.
    """
    if patches is None:
        return load_images(path, image_size)
    side = args.patch or image_size
    if side % stride:
        raise UserError(f"--patch {side}: must be a multiple of {stride} for {args.config}")
    return cut_patches(path, side, patches, args.seed)


def read_training(args, image_size, stride):
    """The training images or patches (`read_data`)."""
    return read_data(args, image_size, stride, args.data, args.patches)


def read_held_out(args, image_size, stride, images):
    """(images for the table of errors, a description): from --held-out, else from the training."""
    if not args.held_out:
        warn("errors are measured on training images, so they may be too small; use --held-out")
        return images[:: max(1, len(images) // ERRORS_OF)][:ERRORS_OF], "training images"
    patches = args.patches and min(args.patches, ERRORS_OF)
    held_out = read_data(args, image_size, stride, args.held_out, patches)
    return held_out[:: max(1, len(held_out) // ERRORS_OF)][:ERRORS_OF], "held-out images"


def training_batch(images, batch_size, step, rank, seed, device, grey=0.0):
    """(x_0, noise, timesteps) on the device, x_0 flipped at random; determined by (seed, rank,
    step), so that a resumed training continues exactly. grey: the share of images that are made
    grey, with equal noise in all channels."""
    generator = torch.Generator().manual_seed(1_000_000_007 * seed + 1_000_003 * rank + step)
    chosen = torch.randint(len(images), (batch_size,), generator=generator)
    mirrored = torch.rand(batch_size, 1, 1, 1, generator=generator) < 0.5
    timesteps = draw_timesteps(batch_size, generator)
    noise_seed = torch.randint(2**62, (), generator=generator).item()
    is_grey = (torch.rand(batch_size, 1, 1, 1, generator=generator) < grey).to(device)
    x0 = images[chosen].to(device).float() / 127.5 - 1
    x0 = torch.where(mirrored.to(device), x0.flip(3), x0)
    # On the device: on a CPU core, noise for 512 images would take a quarter of a GPU's step.
    generator = torch.Generator(device).manual_seed(noise_seed)
    noise = torch.randn(x0.shape, generator=generator, device=device)
    if grey:
        luma = (x0 * torch.tensor(LUMA, device=device)[:, None, None]).sum(1, keepdim=True)
        x0, noise = torch.where(is_grey, luma, x0), torch.where(is_grey, noise[:, :1], noise)
    return x0, noise, timesteps.to(device)


def draw_timesteps(n, generator):
    """(n,) timesteps: 50 % with small noise, log-uniform in sigma; 20 % in 100 … 349, the last
    layers of chains of 3 to 9 steps; 15 % from the chain of 3 steps; 15 % uniform."""
    low, high = math.log(LEAST_SIGMA), math.log(SMALL_SIGMA)
    sigma = torch.exp(low + (high - low) * torch.rand(n, generator=generator))
    small = torch.searchsorted(SIGMAS, sigma)
    anywhere = torch.randint(TRAINING_STEPS, (n,), generator=generator)
    last_layers = torch.randint(100, 350, (n,), generator=generator)
    of_three = torch.tensor(chain_timesteps(3))[torch.randint(3, (n,), generator=generator)]
    u = torch.rand(n, generator=generator)
    others = torch.where(u < 0.85, of_three, anywhere)
    return torch.where(u < 0.5, small, torch.where(u < 0.7, last_layers, others))


def learning_rate_factor(step, steps):
    """Linear warm-up, constant, linear cool-down to zero. Before the cool-down, a training can be
    resumed with more steps."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (COOL_DOWN * steps))


def noise_prediction_loss(network, x0, noise, timesteps, alphas_cumprod, bf16):
    """mean w (eps(sqrt(abar) x_0 + sqrt(1 - abar) noise, t) - noise)^2 with w = 1 / sqrt(abar): the
    geometric mean of w = 1 (Ho et al. 2020, eq. 14), which neglects noisy timesteps, and
    w = 1 / abar (the v-prediction of Salimans & Ho 2022)."""
    abar = alphas_cumprod[timesteps][:, None, None, None]
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=bf16):
        eps = network(x_t, timesteps)[:, :3]
    return (abar.rsqrt() * (eps.float() - noise).square()).mean()


@torch.no_grad()
def orthogonal(matrices):
    """(B, m, n) with singular values moved to about 1, by Newton-Schulz steps (Jordan et al. 2024).
    torch.optim.Muon's run in bfloat16, which takes nine times longer on a CPU without it."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        powers = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        x = torch.baddbmm(x, powers, x, beta=3.4445)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon in float32, matrices of one shape at once. Updates have AdamW's magnitude,
    so that both use the same learning rate."""

    def __init__(self, params, lr=1e-3, weight_decay=0.01, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                self.update(group, shape, params)

    def update(self, group, shape, params):
        for p in params:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        gradients, buffers = zip(*((p.grad, self.state[p]["momentum_buffer"]) for p in params))
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = orthogonal(torch.stack(nesterov)).unbind()
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


class Optimizer:
    """Muon (Jordan et al. 2024) for the inner convolutions, AdamW for all other parameters.

    Muon accepts matrices only, so each weight (out, in, 3, 3) is a matrix (out, in 9)
    that shares its memory.
    """

    def __init__(self, model, lr):
        self.lr = lr
        outer = {model.input_blocks[0][0].weight, model.out[2].weight}
        self.convolutions = [p for p in model.parameters() if p.ndim > 2 and p not in outer]
        self.matrices = [nn.Parameter(p.detach().flatten(1)) for p in self.convolutions]
        by_muon = set(self.convolutions)
        self.optimizers = [
            torch.optim.AdamW([p for p in model.parameters() if p not in by_muon], fused=True),
            Muon(self.matrices),
        ]

    def step(self, factor):
        """Make a step with the learning rate times `factor`, and clear the gradients."""
        for matrix, p in zip(self.matrices, self.convolutions):
            matrix.grad, p.grad = p.grad.flatten(1), None
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * factor
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


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
        parser.error("argument --patch: is the side of --patches, which is missing")
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
