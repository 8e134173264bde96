"""The images that a prior is trained on: read, cut, and drawn in batches with noise."""

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from guided_diffusion.ddim import TRAINING_STEPS, chain_timesteps, linear_alphas_cumprod
from util.devices import available_memory
from util.files import PictureError, UserError, warn
from util.images import SUFFIXES, find_images, open_rgb, say_unread, split_names

MOST_SHRUNK = 8  # largest reduction of a patch
LEAST_SIGMA, SMALL_SIGMA = 0.01, 0.5  # small noise relative to [-1, 1]: t = 0 … 136
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)
ERRORS_OF = 256  # images for the table of errors
SIGMAS = ((1 - linear_alphas_cumprod()) / linear_alphas_cumprod()).sqrt()  # of each timestep


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
