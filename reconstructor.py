"""DMILO for deepinv: a Reconstructor beside its own (github.com/deepinv/deepinv; pip install deepinv).

from reconstructor import DMILO
x = DMILO(sigma=0.01)(y, physics)   # or deepinv.test(DMILO(sigma=0.01), dataloader, physics, …)
"""

try:
    from deepinv.models import Reconstructor
except ImportError as error:
    raise ImportError(
        f"reconstructor needs deepinv, which cannot be imported here ({error}); pip install deepinv"
    ) from error

from dmilo import restore


class DMILO(Reconstructor):
    """`DMILO(sigma, …)(y, physics)`: the pictures behind y = physics(x), (B, 3, H, W) in [0, 1].

    sigma: the noise's standard deviation in y's units; options: what else `dmilo.restore` takes, method="dmilo-pgd" or preset="sharp".
    """

    def __init__(self, sigma, **options):
        super().__init__()
        self.sigma, self.options = sigma, options

    def forward(self, y, physics, **kwargs):
        """kwargs: what deepinv hands to every reconstructor; nothing of it is needed here."""
        return (restore(y, physics, self.sigma, **self.options) + 1) / 2
