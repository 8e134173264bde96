"""Other methods, generators of the same shape as dmilo.py's: {name: (generator, the dataclass of its rows)}."""
from baselines.daps import DAPSHyperparameters, daps
from baselines.deepinv_diffpir import DeepinvDiffPIRHyperparameters, deepinv_diffpir
from baselines.diffpir import DiffPIRHyperparameters, diffpir
from baselines.dmplug import DMPlugHyperparameters, dmplug
from baselines.dps import DPSHyperparameters, dps
from baselines.least_squares import LeastSquaresHyperparameters, least_squares
from baselines.reddiff import REDDiffHyperparameters, reddiff
from baselines.total_variation import TotalVariationHyperparameters, total_variation

BASELINES = {
    "least_squares": (least_squares, LeastSquaresHyperparameters),
    "total_variation": (total_variation, TotalVariationHyperparameters),
    "diffpir": (diffpir, DiffPIRHyperparameters),
    "deepinv_diffpir": (deepinv_diffpir, DeepinvDiffPIRHyperparameters),
    "dmplug": (dmplug, DMPlugHyperparameters),
    "dps": (dps, DPSHyperparameters),
    "reddiff": (reddiff, REDDiffHyperparameters),
    "daps": (daps, DAPSHyperparameters),
}
