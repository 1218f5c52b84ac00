"""ResNet-18 from weights trained on ImageNet: its size, where the weights are looked for, and what is refused."""

from __future__ import annotations

import hashlib
import os
import tarfile

import pytest
import torch
from torchvision.models import resnet18

from clpack.models import ImageNetResNet18, find_imagenet_weights, imagenet_resnet


@pytest.fixture(scope="module")
def trained():
    """torchvision's network with other numbers than it begins with."""
    network = resnet18()
    with torch.no_grad():
        network.bn1.running_mean.fill_(0.5)
        network.layer4[1].bn2.bias.fill_(0.1)
    return network.eval()


@pytest.fixture(scope="module")
def forged(trained, tmp_path_factory):
    """Its weights in a file whose name has their checksum, as torchvision's files have."""
    path = tmp_path_factory.mktemp("forged") / "resnet18.pth"
    state = {name: value for name, value in trained.state_dict().items() if "num_batches" not in name}  # an old file
    torch.save(state, path)
    return path.rename(path.with_stem(f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty dataset root and an empty cache of torch.hub."""
    monkeypatch.setenv("CLPACK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "data/weights", tmp_path / "hub/checkpoints"


def test_published_size():
    model = ImageNetResNet18(pretrained=False)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 11_279_112
    assert len(list(model.parameters())) == 62
    assert (model.num_features, model.linear.out_features) == (512, 200)


def test_features_are_those_of_the_file_and_the_head_is_new(trained, forged):
    model = ImageNetResNet18(7, input_size=64, weights=forged).eval()
    images = torch.rand(2, 3, 64, 64)
    features = model.features(images)
    assert features.shape == (2, 512)
    torch.testing.assert_close(trained.fc(features), trained(images))
    torch.testing.assert_close(model(images), model.linear(features))
    torch.manual_seed(1)
    first = ImageNetResNet18(7, weights=forged)
    torch.manual_seed(1)
    second = ImageNetResNet18(7, pretrained=False)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.features.conv1.weight, second.features.conv1.weight)


@pytest.mark.parametrize("size", [33, 64])
def test_small_images(size):
    assert ImageNetResNet18(5, input_size=size, pretrained=False)(torch.rand(1, 3, size, size)).isfinite().all()


def test_where_weights_are_looked_for(forged, places, monkeypatch):
    monkeypatch.setattr(imagenet_resnet, "_FILE", forged.name)
    with pytest.raises(FileNotFoundError) as caught:
        ImageNetResNet18()
    for text in (*map(str, places), f"get https://download.pytorch.org/models/{forged.name}", "CLPACK_DATA"):
        assert text in str(caught.value)
    for place in reversed(places):  # the dataset root comes first
        place.mkdir(parents=True)
        os.link(forged, place / forged.name)
        assert find_imagenet_weights() == place / forged.name


def test_the_meta_device_needs_no_weights(places):
    with torch.device("meta"):
        assert ImageNetResNet18(5).linear.weight.is_meta


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_files_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("resnet18-00000000.pth").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"wrong content: .* begins with 00000000, but it is [0-9a-f]{64} \(7 bytes\)"):
        ImageNetResNet18(weights="resnet18-00000000.pth")

    torch.save({"conv1.weight": Harmful()}, "program.pth")
    with tarfile.open("oldest.pth", "w") as archive:
        archive.add("program.pth", "storages")
    tmp_path.joinpath("text.pth").write_bytes(b"no weights")
    tmp_path.joinpath("empty.pth").write_bytes(b"")
    for name in ("program.pth", "oldest.pth", "text.pth", "empty.pth"):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be read as weights .* get https://.*resnet18-f37072fd.pth"
        ):
            ImageNetResNet18(weights=name)
    assert not tmp_path.joinpath("harm").exists()

    for content in ({"linear.weight": torch.zeros(2)}, [torch.zeros(2)]):
        torch.save(content, "others.pth")
        with pytest.raises(ValueError, match="others.pth has no weights of torchvision's ResNet-18: "):
            ImageNetResNet18(weights="others.pth")
    with pytest.raises(FileNotFoundError, match="are not in absent.pth. clpack downloads nothing"):
        ImageNetResNet18(weights="absent.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be positive, got 0"),
        ({"in_channels": 1}, "in_channels must be 3, got 1"),
        ({"input_size": 32}, "input_size must be at least 33 pixels .* got 32"),
        ({"weights": "a.pth"}, "weights are for pretrained=True, got 'a.pth' with pretrained=False; drop one"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ImageNetResNet18(pretrained=False, **options)
