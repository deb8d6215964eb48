"""An answer as JSON: the keys of `run --json`, which are stable."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from pymixtral.completion import Completion
from pymixtral.tokenizer import Tokenizer


def answer_document(
    completion: Completion, tokenizer: Tokenizer, *, has_tools: bool
) -> dict[str, Any]:
    """The answer, with `logprobs` if they were asked for, and `tool_calls` if there are tools."""
    document: dict[str, Any] = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": asdict(completion.usage),
    }
    if has_tools:
        calls = completion.tool_calls
        document["tool_calls"] = calls and [asdict(call) for call in calls]
    if completion.logprobs is not None:
        document["logprobs"] = [
            _token(tokenizer, entry.token_id, entry.logprob)
            | {"top": [_token(tokenizer, *pair) for pair in entry.top]}
            for entry in completion.logprobs
        ]
    return document


def _token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    """A token's log-probability; null, which JSON knows, stands for -inf, which it does not."""
    return {
        "token_id": token_id,
        "piece": tokenizer.piece(token_id),
        "logprob": logprob if math.isfinite(logprob) else None,
    }
