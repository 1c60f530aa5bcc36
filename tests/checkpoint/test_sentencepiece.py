"""A spiece.model splits texts as the library that wrote it does, or is refused in one line."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers_models import siglip_folder

from clipguard.checkpoint.load import load_checkpoint
from clipguard.checkpoint.sentencepiece import as_tokenizer_json
from clipguard.errors import UsageError
from clipguard.model.open_clip import build_model

PACKED = (
    r"c-lpgy-UMD7>AQfEA_Q1R9-0JAfg~DxHxo(^)JwNPz1NLX`2|^l-`MS@vD<cadRw!Q$fT<bj+ftlY@g)aA?)tuUW"
    r"5`M&IfA{f_tUfrBt;I*X$sCaOU<1oX-O*aJa*EpN9ofe@$+@0xvXi_&=f9Ce`!0*%9M2j{CJvd-h;*tlO)%p8aSp"
    r"oxH|M^i3@At;!e82FCKg$!Cxx(mG!5`DpRxP$MpX;-*(h$2Nf)-Do$G@L9BTqfkAgSY2Yl7Vwo%fBL9q>SOxm*u~"
    r"eqquTyOABsV$R3!l$M9@)Q{G@<eYq?thqSUQiDSJcs1t~A=$PG;WfomyU(zb((;lt=QOP6EmDwdsmc0WTPZ||TMc"
    r"in5l)~hTM+F>u^~l7}Hc`BKtN5Z^hR8%z9UNXzl&u+;kQ<`h6ZMh&_@jQ1)?e;uLA^kYcz+l|mXXeLi<ctGFQf>Y"
    r"7X"
)
MODEL = zlib.decompress(base64.b85decode(PACKED))
"""A unigram vocabulary of 36 pieces, trained by sentencepiece 0.2 on seven sentences."""
SPLIT = {
    "a photo of a cat": [7, 11, 5, 10, 7, 12, 1],
    "two dogs": [35, 26, 14, 13, 3, 1],
    "x": [8, 2, 1],
    "  many   spaces": [17, 6, 27, 19, 32, 34, 31, 4, 3, 1],
}
"""What its `encode` gives, with the end of the text."""


def test_texts_are_split_as_by_the_library():
    made = Tokenizer.from_str(as_tokenizer_json(MODEL))
    found = {text: made.encode(text).ids for text in SPLIT}
    assert found == SPLIT


def test_a_siglip_reads_texts_by_it_without_case_and_punctuation(tmp_path: Path):
    siglip_folder()(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    (tmp_path / "spiece.model").write_bytes(MODEL)
    model = build_model(load_checkpoint(tmp_path), torch.device("cpu"))
    one, same, other = model.encode_text(["two dogs", " Two, dogs!", "a cat"])
    torch.testing.assert_close(one, same)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\xff" * 20,
        MODEL[:100],
        MODEL.replace(b"</s>", b"<?s>"),
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0b",
    ],
)
def test_another_file_is_one_line(data: bytes, one_line):
    with one_line(UsageError, r"spiece\.model"):
        as_tokenizer_json(data)


@settings(deadline=None)
@given(st.integers(0, len(MODEL) - 1), st.binary(max_size=12))
def test_a_damaged_file_is_one_line_or_json(at: int, data: bytes):
    try:
        told = as_tokenizer_json(MODEL[:at] + data + MODEL[at + len(data) :])
    except UsageError:
        return
    assert json.loads(told)["model"]["type"] == "Unigram"
