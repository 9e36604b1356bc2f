"""The published VGG through torchvision's layout: the same activations as torchvision's own module, and wrong files named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import vgg16, vgg19

from wanlab.nn.vgg import published_network

TAPS = {"vgg16": (4, 9, 16, 23, 30), "vgg19": (4, 9, 18, 27, 36)}      # the poolings of `features`


@pytest.fixture(scope="module")
def theirs() -> dict:
    torch.manual_seed(0)
    with torch.device("meta"):
        models = {"vgg16": vgg16(), "vgg19": vgg19()}
    for model in models.values():                       # without the classifier, which is most of it
        model.classifier = torch.nn.Sequential()
        model.to_empty(device="cpu")
        for value in model.parameters():
            torch.nn.init.normal_(value, std=(2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.05)
    return models


@pytest.mark.parametrize("layout", ["vgg16", "vgg19"])
def test_activations_are_torchvisions(theirs: dict, layout: str, tmp_path: Path) -> None:
    model, file = theirs[layout].eval(), tmp_path / "vgg.pth"
    torch.save(model.state_dict() | {"classifier.0.weight": torch.zeros(1)}, file)
    frames = torch.rand(1, 3, 32, 32)
    standard = (frames - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        taps = published_network(layout, file)(frames)
        for tap, end in zip(taps, TAPS[layout], strict=True):
            expected = model.features[:end](standard)
            assert tap.shape == expected.shape and (tap - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_wrong_files_are_named(theirs: dict, tmp_path: Path) -> None:
    file = tmp_path / "vgg.pth"
    torch.save(theirs["vgg16"].state_dict(), file)
    with pytest.raises(ValueError, match=r"no vgg19 of torchvision's layout: features\.\d+\.(weight|bias) is (missing|unknown)"):
        published_network("vgg19", file)
    with pytest.raises(ValueError, match=r"no layout 'vgg61'.*vgg16"):
        published_network("vgg61", file)
    torch.save(theirs["vgg16"].state_dict() | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, file)
    with pytest.raises(ValueError, match="is no vgg16"):
        published_network("vgg16", file)
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth"):
        published_network("vgg16", tmp_path / "nowhere.pth")
