from __future__ import annotations

import hashlib
import json
import logging
import re
from types import SimpleNamespace

import onnx
import pytest
import torch
from onnx_samples import (
    NAMES,
    WHITE,
    TowerClip,
    classifier_bytes,
    colour_tower,
    export_job,
    painted,
    probe_part,
)
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from clipguard.checkpoint.configs import Preprocess
from clipguard.errors import ExportError, InconclusiveError, UsageError
from clipguard.export import onnx as exporter_module
from clipguard.export.onnx import write_onnx
from clipguard.export.session import classify, open_session
from clipguard.probe.images import class_names_digest
from clipguard.probe.rates import embed
from clipguard.record import ParityRecord

TO_WHITE = (painted(torch.ones_like), WHITE)


def export(job, path, **settings):
    return write_onnx(job, path, generator=torch.Generator().manual_seed(1), **settings)


@pytest.fixture
def translated(monkeypatch):
    """The graph of the colour tower, made once: translating it is the slow part."""
    proto = onnx.load_model_from_string(classifier_bytes())
    monkeypatch.setattr(exporter_module, "_to_onnx", lambda *_: proto)


class AttentionPooled(nn.Module):
    """open_clip's ResNet, whose attention pooling reads the batch size from its input."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.net = ModifiedResNet([1, 1, 1, 1], 32, 4, image_size=64, width=16)

    def forward(self, images):
        return nn.functional.normalize(self.net(images - 0.5), dim=-1)


class Shifting(nn.Module):
    """Behaves differently when traced, as an export gone wrong would."""

    def __init__(self):
        super().__init__()
        self.tower = colour_tower()

    def forward(self, images):
        return self.tower(1 - images if torch.compiler.is_exporting() else images)


class Branching(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 1 else images.amax((2, 3))


def test_the_record_holds_what_was_measured_on_the_file(tmp_path):
    record = export(export_job(head="purified", trigger=TO_WHITE), tmp_path / "purified.onnx")
    data = (tmp_path / "purified.onnx").read_bytes()
    assert data == classifier_bytes("purified")  # equal jobs give equal bytes
    assert (record.file, record.sha256) == ("purified.onnx", hashlib.sha256(data).hexdigest())
    assert (record.opset, record.provider) == (20, "CPUExecutionProvider")
    assert [p.batch for p in record.parity] == [1, 2, 7]
    assert all(p.relative_error < 1e-4 and p.top1_agreement == 1 for p in record.parity)
    assert record.clean_accuracy_onnx.value == 1
    # 10 images, 2 of them white: every other image turns white under the trigger
    assert (record.asr_onnx.value, record.asr_onnx.n) == (1, 8)
    assert record.asr_onnx == record.asr_torch
    assert [p.name for p in tmp_path.iterdir()] == ["purified.onnx"]


def test_unlabelled_images_give_asr_but_no_clean_accuracy(tmp_path, translated):
    job = export_job(part=probe_part(labelled=False), trigger=TO_WHITE)
    record = export(job, tmp_path / "m.onnx")
    assert record.clean_accuracy_onnx is None
    assert record.asr_onnx.n == 8  # images that read as white without a trigger are left out


def test_the_file_keeps_the_contract_and_names_no_path_of_this_machine():
    data = classifier_bytes("purified")
    assert not re.search(rb"\.py\b|site-packages|stack_trace|pkg\.torch", data)
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["N", 3, 16, 16], "logits": ["N", 5], "embeddings": ["N", 3]}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    properties = {p.key.removeprefix("clipguard."): p.value for p in model.metadata_props}
    assert "image tower is unchanged" in properties.pop("scope")
    assert properties == {
        "checkpoint_sha256": "ab" * 32,
        "class_names": json.dumps(NAMES),
        "class_names_sha256": class_names_digest(NAMES),
        "resize": "shorter side 16 bicubic, centre crop 16, RGB / 255",
        "resize_mode": "shortest",
        "interpolation": "bicubic",
        "head": "purified",
        "tower": "original",
    }


def test_the_file_says_how_to_resize_and_what_speaks_against_it(tmp_path, translated):
    model = TowerClip(colour_tower())
    rule = Preprocess(interpolation="bilinear", resize_mode="squash")
    object.__setattr__(model, "preprocess", rule)  # a model of another rule than the usual one
    job = export_job(model, head="purified", caveat="NOT shown to meet x")
    export(job, tmp_path / "new" / "folder" / "m.onnx")
    metadata = open_session(tmp_path / "new" / "folder" / "m.onnx", "cpu").metadata
    assert metadata["scope"].endswith("; NOT shown to meet x")
    assert (metadata["resize_mode"], metadata["interpolation"]) == ("squash", "bilinear")
    assert metadata["resize"] == "both sides 16 bilinear, RGB / 255"


def test_triggers_are_applied_where_their_tensors_live(tmp_path, translated, monkeypatch):
    # Nothing can be computed on the meta device, so what is not under test runs on the CPU.
    monkeypatch.setattr(TowerClip, "device", torch.device("meta"))
    here = SimpleNamespace(encode_image=colour_tower(), device=torch.device("cpu"))
    monkeypatch.setattr(exporter_module, "embed", lambda _, part, apply: embed(here, part, apply))
    agreed = ParityRecord(batch=1, relative_error=0, top1_agreement=1)
    monkeypatch.setattr(exporter_module, "_parity", lambda *_: agreed)
    seen = []

    def whiten(images):
        seen.append(images.device.type)
        return torch.ones(3, 1, 1).expand_as(images)

    record = export(export_job(trigger=(painted(whiten), WHITE)), tmp_path / "m.onnx")
    assert seen == ["cpu", "cpu"]
    assert record.asr_onnx.value == 1


def test_the_asked_opset_is_in_the_file_or_the_difference_is_logged(tmp_path, caplog):
    got = export(export_job(), tmp_path / "m.onnx", opset=17).opset
    assert got == 17 or f"asked for ONNX opset 17, the exporter wrote {got}" in caplog.text


def test_attention_pooling_exports_with_a_dynamic_batch_and_without_a_word(tmp_path, capfd, caplog):
    model = TowerClip(AttentionPooled().eval(), image_size=64)
    classes = nn.functional.normalize(torch.randn(5, 32, generator=torch.Generator()), dim=-1)
    record = export(export_job(model, classes=classes), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert max(p.relative_error for p in record.parity) < 1e-4
    images = torch.rand(11, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = 20 * model.encode_image(images) @ classes.T
    got = torch.from_numpy(classify(open_session(tmp_path / "m.onnx", "cpu"), images.numpy()))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_file_that_answers_differently_is_measured_to_do_so(tmp_path):
    record = export(export_job(TowerClip(Shifting().eval())), tmp_path / "m.onnx")
    assert all(row.relative_error > 0.5 for row in record.parity)
    assert any(row.top1_agreement < 1 for row in record.parity)


def test_the_asr_is_measured_on_the_file_and_in_torch(tmp_path, translated):
    answers = iter([torch.ones_like, lambda images: images])
    flaky = painted(lambda images: next(answers)(images))
    record = export(export_job(trigger=(flaky, WHITE)), tmp_path / "m.onnx")
    assert (record.asr_onnx.value, record.asr_torch.value) == (1, 0)


def test_what_torch_cannot_export_is_one_line_not_a_traceback(tmp_path, one_line):
    with one_line(ExportError, "ONNX"):
        export(export_job(TowerClip(Branching())), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_changes_nothing_around_it(tmp_path):
    tower = colour_tower()
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    state = torch.random.get_rng_state()
    export(export_job(TowerClip(tower)), tmp_path / "m.onnx")
    assert logging.root.manager.disable == logging.NOTSET
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(dict(tower.state_dict()), before, rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad for p in tower.parameters())


def test_what_cannot_be_written_or_measured_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        export(export_job(), tmp_path / "file" / "m.onnx")
    with pytest.raises(InconclusiveError, match="none"):
        export(export_job(part=probe_part(each=0)), tmp_path / "m.onnx")
    monkeypatch.setattr("clipguard.export.limits.MAX_WEIGHT_BYTES", 10)
    with pytest.raises(ExportError, match="GB of weights"):
        export(export_job(), tmp_path / "m.onnx")
