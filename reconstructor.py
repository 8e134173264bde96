"""DMILO as a Reconstructor of deepinv (github.com/deepinv/deepinv; pip install deepinv).

from reconstructor import DMILO
x = DMILO(sigma=0.01)(y, physics)   # or deepinv.test(DMILO(sigma=0.01), dataloader, physics, …)
"""

try:
    from deepinv.models import Reconstructor
except ImportError as error:
    raise ImportError(
        f"reconstructor needs deepinv, which cannot be imported ({error}); pip install deepinv"
    ) from error

from experiment.library import restore


class DMILO(Reconstructor):
    """`DMILO(sigma, …)(y, physics)`: restored images, (B, 3, H, W) in [0, 1], from y = physics(x).

    sigma: the standard deviation of the noise in y's units; options: further arguments of
    `experiment.library.restore`, such as method="dmilo-pgd" or preset="sharp".
    """

    def __init__(self, sigma, **options):
        super().__init__()
        self.sigma, self.options = sigma, options

    def forward(self, y, physics, **kwargs):
        """kwargs: arguments of deepinv for every Reconstructor; not used."""
        return (restore(y, physics, self.sigma, **self.options) + 1) / 2
