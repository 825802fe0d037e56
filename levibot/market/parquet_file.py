"""What the reading of a Parquet file raises, as our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from levibot.errors import DataError, SourceUnavailable


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the reading of a Parquet file raises into our errors: SourceUnavailable and DataError."""
    try:
        yield
    except FileNotFoundError as exc:
        raise SourceUnavailable(f"The file {path} is gone.", hint="Put the recorded market back.") from exc
    except (pa.ArrowException, OSError) as exc:
        raise DataError(
            f"The file {path} cannot be read as Parquet: {str(exc).splitlines()[0].rstrip('.')}.",
            hint="Write it again, or take its symbol out of LEVIBOT_SYMBOLS.",
        ) from exc
