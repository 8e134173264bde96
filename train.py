"""Train a prior: the UNet of a model config learns to predict the noise in a folder or zip of images.

    python train.py --config configs/model_config_demo.yaml --data faces.zip --out models/demo.pt
    python train.py --config configs/model_config_demo.yaml --data photos/ --out models/mine.pt --steps 50000 --bf16 --compile
    python train.py --config configs/model_config_demo.yaml --data photos/ --init models/demo.pt --out models/mine.pt --seed 1
    python train.py --config configs/model_config_photo.yaml --data photos/ --patches 40000 --grey 0.1 --out models/photo.pt
    torchrun --nproc-per-node 4 train.py --config configs/model_config_demo.yaml --data faces.zip --out models/demo.pt

Writes at the end OUT, the bare state dict of the averaged weights, which dmilo.py loads, and OUT's name with
_samples.png and _errors.csv, how far the network errs (the preset posterior needs it). The state of the training stands in OUT.training every few minutes; after a kill the same command goes on
from it.
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
from guided_diffusion.ddim import TRAINING_STEPS, Chain, chain_timesteps, linear_alphas_cumprod
from guided_diffusion.errors import by_frequency, errors_path, waves, write_errors
from guided_diffusion.prior import build_model, load_model_config, load_prior
from util.cli import Parser, number, run_script, typed_path
from util.devices import choose_device, compile_network
from util.files import UserError, here_or_project, save_tensors, say
from util.images import SUFFIXES, find_images, open_rgb, save_image, say_unread, split_names, tile
from util.rng import LAST_SEED, BatchRandom

WARM_UP = 200  # steps of rising learning rate
COOL_DOWN = 0.3  # the part of the steps, at the end, in which it falls to zero
EMA_DECAY = 0.999
GRADIENT_NORM = 1.0
MOST_SHRUNK = 8  # times: the most that a patch is reduced
LEAST_SIGMA, SMALL_SIGMA = (
    0.01,
    0.5,
)  # sqrt((1 - abar) / abar), the noise's deviation where the picture lies in [-1, 1]: t = 0 and 136
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)
SAVE_EVERY = 180  # seconds
ERRORS_OF = 256  # pictures, evenly spread over what is trained on
ERRORS_AT = (
    0,
    1,
    2,
    3,
    5,
    8,
    12,
    20,
    35,
    56,
    80,
    120,
    170,
    230,
    300,
    400,
    500,
    600,
    700,
    800,
    900,
    999,
)  # timesteps
SIGMAS = ((1 - linear_alphas_cumprod()) / linear_alphas_cumprod()).sqrt()  # of each timestep


def find_data(path):
    """A folder or zip of images -> (names, read): read(name) is one of them, decoded to RGB."""
    if os.path.isdir(path):
        files, others = find_images(path)
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        files, others = split_names(name for name in archive.namelist() if not name.endswith("/"))
    else:
        raise UserError(
            f"{path}: is neither a folder nor a zip file of images; name one with --data"
        )
    if not files:
        raise UserError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
    say_unread(path, others)

    def read(name):
        try:
            content = Path(path, name).read_bytes() if os.path.isdir(path) else archive.read(name)
        except (
            zipfile.BadZipFile,
            RuntimeError,
            OSError,
        ) as error:  # a wrong checksum, an encrypted entry, no permission
            raise UserError(f"{path}: {name} cannot be read ({error})") from error
        return open_rgb(io.BytesIO(content), name)

    return files, read


def load_images(path, size):
    """A folder or zip of images -> (n, 3, size, size) uint8, centre-cropped to a square and resized, held in memory."""
    files, read = find_data(path)
    images = np.empty((len(files), 3, size, size), np.uint8)
    for i, name in enumerate(tqdm(files, desc="reading images", unit="image", disable=None)):
        images[i] = np.asarray(ImageOps.fit(read(name), (size, size), Image.LANCZOS)).transpose(
            2, 0, 1
        )
    return torch.from_numpy(images)


def patch_box(width, height, size, rng):
    """The corners of a random square of a picture: `size` pixels a side to MOST_SHRUNK times that, evenly on a logarithmic scale,
    as far as the picture goes. One that is smaller than `size` gives its largest squares."""
    shorter = min(width, height)
    smallest, largest = min(size, shorter), min(MOST_SHRUNK * size, shorter)
    side = smallest * (largest / smallest) ** rng.random()
    left, top = (width - side) * rng.random(), (height - side) * rng.random()
    return left, top, left + side, top + side


def cut_patches(path, size, count, seed):
    """A folder or zip of pictures -> (count, 3, size, size) uint8: as many patches of each, at random places and scales, drawn
    from the seed. One picture is decoded at a time, so that memory goes with `count` and with the largest of them."""
    files, read = find_data(path)
    patches = np.empty((count, 3, size, size), np.uint8)
    for i, name in enumerate(tqdm(files, desc="cutting patches", unit="image", disable=None)):
        image, rng = read(name), np.random.default_rng((seed, i))
        for patch in patches[i :: len(files)]:
            box = patch_box(*image.size, size, rng)
            patch[:] = np.asarray(image.resize((size, size), Image.LANCZOS, box)).transpose(2, 0, 1)
    return torch.from_numpy(patches)


def read_data(args, image_size, stride):
    """What to train on, (n, 3, side, side) uint8: --data whole or in --patches. Raises UserError for a side that `stride` does not divide."""
    if not args.patches:
        return load_images(args.data, image_size)
    side = args.patch or image_size
    if side % stride:
        raise UserError(
            f"--patch {side}: must be a multiple of {stride}, for the network of {args.config} halves it so often"
        )
    return cut_patches(args.data, side, args.patches, args.seed)


def training_batch(images, batch_size, step, rank, seed, device, grey=0.0):
    """x_0 with random mirrorings, its noise and its timesteps, on the device: all drawn from (seed, rank, step), so that a
    resumed training sees what an uninterrupted one would have seen. grey: the share of pictures made grey, as are their noises."""
    generator = torch.Generator().manual_seed(1_000_000_007 * seed + 1_000_003 * rank + step)
    chosen = torch.randint(len(images), (batch_size,), generator=generator)
    mirrored = torch.rand(batch_size, 1, 1, 1, generator=generator) < 0.5
    timesteps = draw_timesteps(batch_size, generator)
    noise_seed = torch.randint(2**62, (), generator=generator).item()
    is_grey = (torch.rand(batch_size, 1, 1, 1, generator=generator) < grey).to(device)
    x0 = images[chosen].to(device).float() / 127.5 - 1
    x0 = torch.where(mirrored.to(device), x0.flip(3), x0)
    # Drawn where it is used: the noise of 512 pictures takes a core 30 ms, a quarter of a step on a GPU.
    noise = torch.randn(
        x0.shape, generator=torch.Generator(device).manual_seed(noise_seed), device=device
    )
    if grey:
        luma = (x0 * torch.tensor(LUMA, device=device)[:, None, None]).sum(1, keepdim=True)
        x0, noise = torch.where(is_grey, luma, x0), torch.where(is_grey, noise[:, :1], noise)
    return x0, noise, timesteps.to(device)


def draw_timesteps(n, generator):
    """(n,) timesteps: half of them those of small noise, its sigma drawn evenly on a logarithmic scale (denoising, and the last
    passes of every method), most others those of the methods' chains, the rest to keep every number of steps usable."""
    low, high = math.log(LEAST_SIGMA), math.log(SMALL_SIGMA)
    sigma = torch.exp(low + (high - low) * torch.rand(n, generator=generator))
    small = torch.searchsorted(SIGMAS, sigma)
    anywhere = torch.randint(TRAINING_STEPS, (n,), generator=generator)
    last_layers = torch.randint(
        100, 350, (n,), generator=generator
    )  # of chains of 3 to 9 steps: the fast presets'
    of_three = torch.tensor(chain_timesteps(3))[
        torch.randint(3, (n,), generator=generator)
    ]  # the published settings'
    u = torch.rand(n, generator=generator)
    return torch.where(
        u < 0.5, small, torch.where(u < 0.7, last_layers, torch.where(u < 0.85, of_three, anywhere))
    )


def learning_rate_factor(step, steps):
    """Linear warm-up, a constant, a linear cool-down to zero: until it begins, more steps may be asked for."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (COOL_DOWN * steps))


def noise_prediction_loss(network, x0, noise, timesteps, alphas_cumprod, bf16):
    """mean w (eps(sqrt(abar) x_0 + sqrt(1 - abar) noise, t) - noise)^2 with w = 1 / sqrt(abar): half way, on a logarithmic
    scale, from Ho et al. 2020 (eq. 14, w = 1) to the v-prediction of Salimans & Ho 2022 (w = 1 / abar). Of the picture's
    error, w = 1 leaves the noisy timesteps nearly none to learn from."""
    abar = alphas_cumprod[timesteps][:, None, None, None]
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=bf16):
        eps = network(x_t, timesteps)[:, :3]
    return (abar.rsqrt() * (eps.float() - noise).square()).mean()


class Optimizer:
    """Muon (Jordan et al. 2024) for the convolutions within the network, AdamW for everything else.

    PyTorch's Muon takes matrices only: it is given each weight (out, in, 3, 3) as the matrix (out, in 9) on the same memory.
    """

    def __init__(self, model, lr):
        self.lr = lr
        outer = {model.input_blocks[0][0].weight, model.out[2].weight}
        self.convolutions = [p for p in model.parameters() if p.ndim > 2 and p not in outer]
        self.matrices = [nn.Parameter(p.detach().flatten(1)) for p in self.convolutions]
        muons = set(self.convolutions)
        self.parts = [
            torch.optim.AdamW([p for p in model.parameters() if p not in muons], fused=True),
            # adjust_lr_fn: updates as large as AdamW's, so that both take one learning rate
            torch.optim.Muon(self.matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        ]

    def step(self, factor):
        """Step at the learning rate times `factor`, and clear the gradients."""
        for matrix, p in zip(self.matrices, self.convolutions):
            matrix.grad, p.grad = p.grad.flatten(1), None
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * factor
            part.step()
            part.zero_grad()

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states):
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def resume(path, parts, begun_with, device):
    """Load the training that stands in `path` into its parts, {name: what has load_state_dict}. Returns its progress, None where
    there is no such file. Raises UserError for one that is foreign or was begun with other settings than begun_with."""
    if not os.path.exists(path):
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        was, progress = state["begun_with"], state["progress"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (OSError, torch.OutOfMemoryError):  # not the file's fault
        raise
    except Exception as error:  # a foreign file makes the unpickler raise nearly anything
        raise UserError(
            f"{path}: is not a training of this config; remove it to start anew"
        ) from error
    for key, begun, now in differences(was, begun_with):
        raise UserError(
            f"{path}: was begun with {key} {begun}, now it is {now}; go on with the former or choose another --out"
        )
    return progress


@torch.no_grad()
def write_samples(model, size, device, path):
    """A grid of 32 plain samples by 10 DDIM steps."""
    rng = BatchRandom(range(32))
    x = rng.randn((3, size, size), device)
    for g in Chain(model.eval(), 10, rng):
        x = g(x)
    save_image(path, tile([list(x[i : i + 8]) for i in range(0, 32, 8)]))


@torch.no_grad()
def measure_errors(model, images, device, path):
    """Write the table of `guided_diffusion.errors`: the mean squared error of the guessed picture behind ERRORS_OF of the images under noise."""
    chosen = images[:: max(1, len(images) // ERRORS_OF)][:ERRORS_OF]
    g, sigmas = Chain(model, 1, BatchRandom([0])), SIGMAS[list(ERRORS_AT)].tolist()
    variances = []
    for sigma in tqdm(sigmas, desc="measuring errors", unit="level", disable=None):
        squares = 0
        for image in chosen:
            x = (image[None].to(device) / 127.5 - 1).float()
            squares = squares + waves(
                g.denoised(x + sigma * g.rng.randn(x.shape[1:], device), sigma) - x
            )[0].square().double() / len(chosen)
        variances.append(by_frequency(squares.cpu().numpy()))
    write_errors(
        errors_path(path),
        sigmas,
        variances,
        f"mean squared error of {os.path.basename(path)} by train.py, {len(chosen)} pictures of its training",
    )


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument(
        "--config", required=True, help="the model config, configs/model_config_*.yaml"
    )
    parser.add_argument(
        "--data", type=typed_path, required=True, help="a folder or a zip file of images"
    )
    parser.add_argument("--out", type=typed_path, required=True, help="the checkpoint to write")
    parser.add_argument(
        "--patches",
        type=number(int, 1),
        metavar="N",
        help="train on N patches cut from large pictures, at scales of 1 to 1/8, instead of on whole ones",
    )
    parser.add_argument(
        "--patch",
        type=number(int, 8),
        metavar="PIXELS",
        help="their side (default: the config's image_size)",
    )
    parser.add_argument(
        "--grey",
        type=number(float, 0, 1),
        default=0.0,
        help="the share of pictures made grey (default 0)",
    )
    parser.add_argument(
        "--init",
        type=typed_path,
        help="a checkpoint of the same config to start from (default: random weights)",
    )
    parser.add_argument(
        "--steps", type=number(int, 1), default=9500, help="optimiser steps in all (default 9500)"
    )
    parser.add_argument(
        "--batch-size",
        type=number(int, 1),
        default=16,
        help="images a step and process (default 16)",
    )
    parser.add_argument(
        "--lr", type=number(float, 0), default=1e-3, help="highest learning rate (default 1e-3)"
    )
    parser.add_argument(
        "--seed", type=number(int, 0, LAST_SEED), default=0, help="of all draws (default 0)"
    )
    parser.add_argument(
        "--only-errors",
        action="store_true",
        help="train nothing, and write OUT_errors.csv anew: how far the network errs",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="bfloat16 autocast: faster where the processor has it"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile: a third faster after a minute or two"
    )
    parser.add_argument(
        "--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)"
    )
    args = parser.parse_args()
    if args.patch and not args.patches:
        parser.error("argument --patch: is the side of --patches; say how many")
    return args


def refuse_spoilt(loss, average, step, path):
    """Raise UserError where the mean loss or the averaged weights are not finite. Both stay so, and must not take the place of the training
    that stands in `path`."""
    norms = torch.stack(torch._foreach_norm(list(average.parameters())))
    if not (torch.isfinite(loss) & torch.isfinite(norms).all()):
        raise UserError(
            f"step {step}: the loss or the weights are not finite any more; {path} holds the last that were saved. Go on from there "
            "without --compile, or choose another --out and a lower --lr, or leave out --bf16"
        )


def run_steps(args, network, parts, images, progress, save, rank, device):
    """Train from progress["step"] to args.steps, calling save(progress) every few minutes. network: parts["model"], perhaps
    compiled or wrapped. Returns the progress at the end."""
    model, ema, optimizer = parts["model"], parts["ema"], parts["optimizer"]
    alphas_cumprod = linear_alphas_cumprod().to(device)
    loss_mean = torch.tensor(progress["loss"], device=device)
    last = saved = time.time()
    bar = tqdm(
        total=args.steps,
        initial=progress["step"],
        unit="step",
        disable=rank > 0 or None,
        mininterval=1,
    )
    for step in range(progress["step"], args.steps):
        batch = training_batch(images, args.batch_size, step, rank, args.seed, device, args.grey)
        loss = noise_prediction_loss(network, *batch, alphas_cumprod, args.bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step(learning_rate_factor(step, args.steps))
        # The average starts as a short one and lengthens, or the random first weights would stay in it.
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with (
            torch.no_grad()
        ):  # or the average would hold on to the graph of every step since the first
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        loss_mean.lerp_(loss.detach(), 0.01)
        now = time.time()
        progress = {
            "step": step + 1,
            "seconds": progress["seconds"] + now - last,
            "loss": progress["loss"],
        }
        last = now
        bar.update()
        due = rank == 0 and now - saved > SAVE_EVERY
        if (
            due or (step + 1) % 20 == 0 or step + 1 == args.steps
        ):  # fetching the loss makes a GPU wait
            refuse_spoilt(loss_mean, ema, step + 1, args.out + ".training")
            bar.set_postfix(loss=f"{loss_mean.item():.4f}", refresh=False)
        if due:
            progress["loss"] = loss_mean.item()
            save(progress)
            saved = now
            if bar.disable:  # no terminal
                say(
                    f"step {step + 1} of {args.steps}, loss {progress['loss']:.4f}, {progress['seconds'] / 3600:.2f} h"
                )
    bar.close()
    return {**progress, "loss": loss_mean.item()}


def main():
    args = parse_arguments()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = choose_device(-1 if args.cuda == -1 else int(os.environ.get("LOCAL_RANK", args.cuda)))
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    torch.manual_seed(args.seed)  # the same first weights on every rank
    args.config = here_or_project(args.config)
    config = load_model_config(args.config)
    if args.only_errors:
        model = load_prior({**config, "model_path": os.path.abspath(args.out)}, args.config, device)
        measure_errors(model, read_data(args, config["image_size"], model.stride), device, args.out)
        return print(f"wrote {errors_path(args.out)}")
    if args.init:
        model = (
            load_prior({**config, "model_path": os.path.abspath(args.init)}, args.config, device)
            .train()
            .requires_grad_(True)
        )
    else:
        model = build_model(config, args.config).to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = Optimizer(model, args.lr)
    images = read_data(args, config["image_size"], model.stride)

    state_path = args.out + ".training"
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    # What decides each step, but for --steps: until the learning rate falls, more of them may be asked for.
    begun_with = {key: getattr(args, key) for key in ("batch_size", "lr", "seed", "bf16", "grey")}
    # By content: a path may be gone, or another's by now.
    begun_with.update(
        data={
            "content": f"{len(images)} images, digest {hashlib.blake2b(images.numpy(), digest_size=8).hexdigest()}"
        }
    )
    begun_with.update(
        init={"digest": checkpoint_digest(args.init)} if args.init else None,
        processes=world,
        model=config,
    )
    progress = resume(state_path, parts, begun_with, device)
    if progress and rank == 0:
        print(
            f"{state_path}: going on from step {progress['step']} after {progress['seconds'] / 3600:.2f} h of training"
        )
    progress = progress or {"step": 0, "seconds": 0.0, "loss": 1.0}  # loss: a running mean

    def save(progress):
        states = {name: part.state_dict() for name, part in parts.items()}
        save_tensors(state_path, {**states, "progress": progress, "begun_with": begun_with})

    if rank == 0:
        try:
            save(progress)  # a folder that cannot be written to is noticed now
        except OSError as error:
            raise UserError(f"{state_path}: cannot be written ({error.strerror})") from error
    network = DistributedDataParallel(model) if world > 1 else model
    if args.compile:
        network = compile_network(network, device)
    progress = run_steps(args, network, parts, images, progress, save, rank, device)
    if rank == 0:
        save(progress)
        save_tensors(args.out, ema.state_dict())
        samples_path = os.path.splitext(args.out)[0] + "_samples.png"
        write_samples(ema, config["image_size"], device, samples_path)
        measure_errors(ema, images, device, args.out)
        hours = progress["seconds"] / 3600
        print(
            f"{progress['step']} steps, {hours:.2f} h, loss {progress['loss']:.4f}: wrote {args.out}, {samples_path} and {errors_path(args.out)}"
        )
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    run_script(main)
