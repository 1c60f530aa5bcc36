from __future__ import annotations

import hashlib
import json
import logging
import re

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
from clipguard.errors import EXPORT, ExportError, InconclusiveError, UsageError
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


class Elsewhere(TowerClip):
    """A model on an accelerator."""

    @property
    def device(self):
        return torch.device("meta")


class Resizing(TowerClip):
    """A model that was trained on images of another resize rule."""

    def __init__(self, mode):
        super().__init__(colour_tower())
        object.__setattr__(
            self, "preprocess", Preprocess(interpolation="bilinear", resize_mode=mode)
        )


class Branching(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 1 else images.amax((2, 3))


def test_the_record_holds_what_was_measured_on_the_file(tmp_path):
    record = export(export_job(trigger=TO_WHITE), tmp_path / "purified.onnx")
    data = (tmp_path / "purified.onnx").read_bytes()
    assert (record.file, record.sha256) == ("purified.onnx", hashlib.sha256(data).hexdigest())
    assert (record.opset, record.provider) == (20, "CPUExecutionProvider")
    assert [p.batch for p in record.parity] == [1, 2, 7]
    assert all(p.relative_error < 1e-4 and p.top1_agreement == 1 for p in record.parity)
    assert record.clean_accuracy_onnx.value == 1
    # 10 images, 2 of them white: every other image turns white under the trigger
    assert (record.asr_onnx.value, record.asr_onnx.n) == (1, 8)
    assert record.asr_onnx == record.asr_torch
    assert [p.name for p in tmp_path.iterdir()] == ["purified.onnx"]


def test_a_trigger_that_fails_has_no_asr_on_the_file(tmp_path, translated):
    record = export(export_job(trigger=(painted(lambda x: x), WHITE)), tmp_path / "m.onnx")
    assert record.asr_onnx.value == 0
    assert record.asr_torch.value == 0


def test_unlabelled_images_give_asr_but_no_clean_accuracy(tmp_path, translated):
    job = export_job(part=probe_part(labelled=False), trigger=TO_WHITE)
    record = export(job, tmp_path / "m.onnx")
    assert record.clean_accuracy_onnx is None
    assert record.asr_onnx.n == 8  # images that read as white without a trigger are left out


def test_the_file_keeps_the_contract():
    model = onnx.load_model_from_string(classifier_bytes("purified"))
    onnx.checker.check_model(model, full_check=True)

    def shape(value):
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {i.name: shape(i) for i in model.graph.input} == {"images": ["N", 3, 16, 16]}
    assert {o.name: shape(o) for o in model.graph.output} == {
        "logits": ["N", 5],
        "embeddings": ["N", 3],
    }
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    properties = {p.key: p.value for p in model.metadata_props}
    scope = properties.pop("clipguard.scope")
    assert "image tower is unchanged" in scope
    assert properties == {
        "clipguard.checkpoint_sha256": "ab" * 32,
        "clipguard.class_names": json.dumps(NAMES),
        "clipguard.class_names_sha256": class_names_digest(NAMES),
        "clipguard.resize": "shorter side 16 bicubic, centre crop 16, RGB / 255",
        "clipguard.resize_mode": "shortest",
        "clipguard.interpolation": "bicubic",
        "clipguard.head": "purified",
    }


def test_the_file_says_what_speaks_against_it(tmp_path, translated):
    job = export_job(head="purified", caveat="NOT shown to meet x")
    export(job, tmp_path / "new" / "folder" / "m.onnx")
    scope = open_session(tmp_path / "new" / "folder" / "m.onnx", "cpu").metadata["scope"]
    assert scope.endswith("; NOT shown to meet x")


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("squash", "both sides 16 bilinear, RGB / 255"),
        ("longest", "longer side 16 bilinear, centred on black 16 x 16, RGB / 255"),
    ],
)
def test_the_file_names_the_resize_rule_of_its_model(tmp_path, translated, mode, text):
    export(export_job(Resizing(mode)), tmp_path / "m.onnx")
    metadata = open_session(tmp_path / "m.onnx", "cpu").metadata
    assert (metadata["resize_mode"], metadata["interpolation"]) == (mode, "bilinear")
    assert metadata["resize"] == text


def test_triggers_are_applied_where_their_tensors_live(tmp_path, translated, monkeypatch):
    # Nothing can be computed on the meta device, so what is not under test runs on the CPU.
    here, seen = TowerClip(colour_tower()), []
    monkeypatch.setattr(exporter_module, "embed", lambda _, part, apply: embed(here, part, apply))
    agreed = ParityRecord(batch=1, relative_error=0, top1_agreement=1)
    monkeypatch.setattr(exporter_module, "_parity", lambda *_: agreed)

    def whiten(images):
        seen.append(images.device.type)
        return torch.ones(3, 1, 1).expand_as(images)

    job = export_job(Elsewhere(colour_tower()), trigger=(painted(whiten), WHITE))
    record = export(job, tmp_path / "m.onnx")
    assert seen == ["cpu", "cpu"]
    assert record.asr_onnx.value == 1


def test_the_asked_opset_is_in_the_file_or_the_difference_is_logged(tmp_path, caplog):
    got = export(export_job(), tmp_path / "m.onnx", opset=17).opset
    assert got == 17 or f"asked for ONNX opset 17, the exporter wrote {got}" in caplog.text


def test_no_path_of_this_machine_and_no_stack_trace_is_in_the_file():
    data = classifier_bytes("purified")
    assert not re.search(rb"\.py\b|site-packages|stack_trace|pkg\.torch", data)


def test_equal_jobs_give_equal_bytes(tmp_path):
    export(export_job(head="purified"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == classifier_bytes("purified")


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


def test_cuda_that_onnxruntime_does_not_have_is_an_export_error(tmp_path, monkeypatch, translated):
    cpu_only = ["CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: cpu_only)
    with pytest.raises(ExportError, match="wanted onnxruntime to run on CUDA") as caught:
        export(export_job(provider="cuda"), tmp_path / "m.onnx")
    assert caught.value.exit_code == EXPORT
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_export_is_one_line_not_a_traceback(tmp_path):
    with pytest.raises(ExportError, match="torch could not turn this image tower into ONNX") as e:
        export(export_job(TowerClip(Branching())), tmp_path / "m.onnx")
    assert "\n" not in str(e.value)
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


def test_too_many_weights_for_one_file_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter_module, "MAX_WEIGHT_BYTES", 10)
    with pytest.raises(ExportError, match=r"GB of weights.*run with --export none"):
        export(export_job(), tmp_path / "m.onnx")


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*choose another place"):
        export(export_job(), tmp_path / "file" / "m.onnx")


def test_nothing_to_measure_on_proves_nothing(tmp_path):
    with pytest.raises(InconclusiveError, match="got none"):
        export(export_job(part=probe_part(each=0)), tmp_path / "m.onnx")
