"""Numbers about videos: torch in, torch out; knows nothing of the pipelines that it measures.

One-shot functions take videos `b f c h w` in [0, 1] and give one value per sample, or features and give one distance;
`streaming` and `sets` wrap them as torchmetrics classes. Names are resolved on first use, because torchmetrics, torchvision and
OpenCV take seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "frechet_distance": "frechet",
    "frechet_from_moments": "frechet",
    "frechet_of_gaussians": "frechet",
    "frechet_bias": "frechet",
    "frechet_bias_from_moments": "frechet",
    "frechet_infinity": "infinity",
    "frechet_replicates": "leaveout",
    "Moments": "moments",
    "polynomial_mmd": "kernel",
    "kernel_distance": "kernel",
    "jedi_distance": "kernel",
    "jedi_from_moments": "kernel",
    "manifold_metrics": "manifold",
    "FeatureBank": "bank",
    "BankError": "bank",
    "SmallSampleWarning": "rows",
    "jackknife_interval": "jackknife",
    "jackknife_difference": "jackknife",
    "SetDistances": "sets",
    "FrechetVideoDistance": "sets",
    "KernelVideoDistance": "sets",
    "JediDistance": "sets",
    "ManifoldMetrics": "sets",
    "MeanOverSamples": "streaming",
    "GuardedMean": "streaming",
    "lpips_distance": "lpips",
    "perceptual_curves": "perceptual",
    "tlp": "perceptual",
    "dists": "dists",
    "psnr": "quality",
    "ssim": "quality",
    "ms_ssim": "quality",
    "masked_psnr": "quality",
    "sharpness": "quality",
    "flicker": "temporal",
    "motion_magnitude": "temporal",
    "Guarded": "guard",
    "guarded": "guard",
    "tof": "tecogan",
    "motion_smoothness": "smoothness",
    "consistency": "vbench",
    "temporal_flickering": "vbench",
    "dynamic_degree": "vbench",
    "i2v_subject": "vbench",
    "frame_scores": "likeness",
    "image_psnr": "adherence",
    "image_ssim": "adherence",
    "image_lpips": "adherence",
    "text_alignment": "clip",
    "clip_score": "clip",
    "estimate_flow": "warp",
    "warp_error": "warp",
    "motion_accuracy": "motion",
    "shape_accuracy": "shape",
    "colour_accuracy": "colour",
    "trajectory_error": "trajectory",
    "flow_error": "trajectory",
    "ghosting": "ghost",
    "content_loss": "adversarial",
    "gan_loss": "adversarial",
    "MotionNet": "motionnet",
    "ShapeNet": "shape",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
