"""The precision that suits a CPU."""

from __future__ import annotations

import pytest
import torch

from eyevsai.training.device import has_fast_bfloat16


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
@pytest.mark.parametrize("value", [True, False])
def test_bfloat16_is_fast_on_cpus_that_report_it(
    name: str, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: value}, raising=False)
    assert has_fast_bfloat16() is value


def test_bfloat16_is_not_fast_with_a_torch_that_reports_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_fast_bfloat16() is False
