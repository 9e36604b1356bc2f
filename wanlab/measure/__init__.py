"""The only door to `metrics`: named measures over batches of samples.

    for measure in resolve(["psnr", "fvd"], device="cpu"):
        if measure.kind == "sample":
            rows = measure.score(batch)                       # b, NaN where it does not apply
            measure.curve(batch)                              # b n along the frames, or None
        else:
            x, y = measure.features(batch), measure.features(batch, "reference")
            measure.distance(x, y), measure.interval(x, y)

A name in brackets is the protocol: `fvd[motionnet|8f|net:sha8]`. Short names (`fvd`) choose the shipped one, `fvd[videogpt]` and
`lpips[alex]` another; a full name is taken only with the weights that it says.
"""

from wanlab.measure.batch import Batch, Memory
from wanlab.measure.door import package, part
from wanlab.measure.kinds import Curve, Features, Measure, MetricInfo, SampleMeasure, SetMeasure
from wanlab.measure.naming import MissingWeights, UnknownMetric, available, idle, info, key_of, resolve, stored
from wanlab.measure.sets import Clips

__all__ = [
    "Batch",
    "Clips",
    "Curve",
    "Features",
    "Measure",
    "Memory",
    "MetricInfo",
    "MissingWeights",
    "SampleMeasure",
    "SetMeasure",
    "UnknownMetric",
    "available",
    "idle",
    "info",
    "key_of",
    "package",
    "part",
    "resolve",
    "stored",
]
