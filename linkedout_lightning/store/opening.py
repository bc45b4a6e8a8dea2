"""The Lance table under a store: made, or opened at one of its versions."""

from __future__ import annotations

from typing import Any

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import table
from linkedout_lightning.store.faults import as_store_errors, reason
from linkedout_lightning.store.spec import StoreSpec
from linkedout_lightning.store.versions import list_versions, number_of


def create_table(where: str, spec: StoreSpec) -> Any | None:
    """Make an empty table; None where one is already.

    Raises:
        StoreError: The place cannot be written.
    """
    import lance

    columns = table.schema(spec)
    try:
        return lance.write_dataset(
            columns.empty_table(),
            where,
            schema=columns,
            mode="create",
            # Positions shift after a delete; row ids that stay also tell the newer of two.
            enable_stable_row_ids=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        if "already exists" in str(error).lower():
            return None
        raise StoreError(f"cannot create a feature store at {where!r}: {reason(error)}") from error


def open_table(where: str, version: int | str | None = None) -> Any:
    """Open a table at its latest version, or at a past one.

    Raises:
        StoreError: There is none, or it cannot be read, or it has no such version (any more).
    """
    import lance

    try:
        dataset = lance.dataset(where)
    except (OSError, ValueError, RuntimeError) as error:
        if "not found" in str(error).lower():
            raise StoreError(
                f"there is no feature store at {where!r}; `linkedout extract` makes one"
            ) from None
        raise StoreError(f"cannot open the feature store at {where!r}: {reason(error)}") from error
    if version is None:
        return dataset
    with as_store_errors("open", where):
        return dataset.checkout_version(number_of(version, list_versions(dataset), where))
