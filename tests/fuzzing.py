"""What the fuzz tests share: how many cases, what counts as a clear error, hostile values.

A few seconds of each, always the same, run with the other tests. `make fuzz` sets FUZZ to the
number of cases for each property: then they are drawn anew at every run, at least 10,000 in all.
"""

from __future__ import annotations

import collections
import functools
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = int(os.environ.get("FUZZ", "0"))
PACKAGE = str(Path(__file__).resolve().parent.parent / "augflow_mini")
CASES: collections.Counter[str] = collections.Counter()
CLEAR = (ValueError, RuntimeError, FloatingPointError, OSError)
EXTREMES = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-310, 5e-324, 1e-30, 1e30, -1e30, 3e38, 1e300]
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]
# What a caller may pass for a number, a count or a width.
ANYTHING = st.one_of(
    st.integers(-3, 6),
    st.floats(allow_nan=True),
    st.sampled_from([None, True, "3", "x", b"", (), [2], {}, 2.0, torch.tensor(2)]),
)


def cases(*drawn: st.SearchStrategy, share: float = 1.0, ci: int = 20) -> Callable:
    """`given(*drawn)` on `ci` cases, or on share * FUZZ of them under `make fuzz`."""

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def counted(*args: object, **kwargs: object) -> None:
            CASES[test.__name__] += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of a variance of one number
                test(*args, **kwargs)

        return settings(
            max_examples=max(ci, int(share * FUZZ)),
            derandomize=not FUZZ,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(*drawn)(counted))

    return decorate


def works_or_explains(do: Callable[[], object]) -> object:
    """The result of `do`; None where it refuses with an error of the library's own making."""
    try:
        return do()
    except TypeError:
        return None  # Python's own words for a text or a list in a number's place name the type
    except CLEAR as error:
        raised = traceback.extract_tb(error.__traceback__)[-1].filename
        if not raised.startswith(PACKAGE):
            raise AssertionError(f"{type(error).__name__} from {raised}: {error}") from error
        words = str(error)
        says = any(sign in words for sign in ("expected", ";", ". Use "))
        assert len(words) > 20 and says, f"unclear: {words}"
        return None
