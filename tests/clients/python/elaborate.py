"""Longer questions, for recordings whose spans should be as large as those of real prompts.

Models nothing unless `CLIENT_TEXT_WORDS` says how many words a question has; then every question
goes on with so many, a function of its number alone, and with a reference that can be found in the
recorded bytes.
"""

from __future__ import annotations

import os
import random

from workload import sentence

REFERENCE = "ref#{:012d}"


def elaborated(text: str, number: int) -> str:
    words = int(os.environ.get("CLIENT_TEXT_WORDS", "0"))
    if words == 0:
        return text
    source = random.Random(number)
    parts = [text, REFERENCE.format(number)]
    while words > 0:
        length = min(source.randrange(6, 19), words)
        parts.append(sentence(source, length).capitalize() + source.choice((".", ".", "?", ";\n")))
        words -= length
    return " ".join(parts)
