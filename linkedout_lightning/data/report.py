"""What happened to the rows on their way from the file to the batches."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Counts of everything that was read, changed or left out.

    Attributes:
        source: File or object that was read.
        rows_read: Rows of the source; every other count of rows is a part of it.
        missing_values: Rows dropped because the user, item or time is empty.
        duplicates: Rows that repeat user, item and time of an earlier row.
        duplicates_dropped: Whether those were dropped.
        repeats: Rows in which a user meets an item again at another time; kept.
        unsorted: Rows that are earlier than their user's row before; sorted by time, stably.
        short_users: Users dropped because they have fewer rows than ``min_len``.
        short_user_rows: Rows that went with them.
        truncated_rows: Rows dropped because a preset keeps the latest ones of each user.
        vanished_items: Items that no longer occur after all that.
        users: Users kept.
        items: Items kept, the catalogue.
        rows: Rows kept.
        train_rows: Rows that training sees.
        train_items: Items among them.
        train_sequences: Sequences that training draws from.
        untrainable_sequences: Sequences of one item, which hold nothing to predict.
        valid_users: Users of the validation.
        test_users: Users of the test.
        valid_skipped: Users without a validation target or with nothing before it.
        test_skipped: Likewise for the test.
        cold_items: Items of the catalogue without a row in training.
        items_without_features: Items of the catalogue that the given features do not hold.
        rows_without_features: Rows of those items.
        features_without_items: Items of the features that nobody met.
    """

    source: str = ""
    rows_read: int = 0
    missing_values: int = 0
    duplicates: int = 0
    duplicates_dropped: bool = False
    repeats: int = 0
    unsorted: int = 0
    short_users: int = 0
    short_user_rows: int = 0
    truncated_rows: int = 0
    vanished_items: int = 0
    users: int = 0
    items: int = 0
    rows: int = 0
    train_rows: int = 0
    train_items: int = 0
    train_sequences: int = 0
    untrainable_sequences: int = 0
    valid_users: int = 0
    test_users: int = 0
    valid_skipped: int = 0
    test_skipped: int = 0
    cold_items: int = 0
    items_without_features: int | None = None
    rows_without_features: int | None = None
    features_without_items: int | None = None

    def as_dict(self) -> dict[str, str | int | bool | None]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A few lines to read: what was read, what changed, what is left."""
        fate = "dropped" if self.duplicates_dropped else "kept"
        lines = [
            f"{self.source}: {self.rows_read:,} rows read, {self.rows:,} kept "
            f"({self.users:,} users, {self.items:,} items)",
        ]
        notes = [
            (self.missing_values, "rows with an empty user, item or time dropped"),
            (self.duplicates, f"duplicate rows {fate}"),
            (self.repeats, "repeated meetings of a user and an item kept"),
            (self.unsorted, "rows out of time order, sorted"),
            (self.short_users, f"users too short ({self.short_user_rows:,} rows) dropped"),
            (self.truncated_rows, "rows older than the latest that the preset keeps dropped"),
            (self.vanished_items, "items vanished with the dropped rows"),
            (self.untrainable_sequences, "sequences with nothing to predict left out of training"),
            (self.valid_skipped, "users without a validation example"),
            (self.test_skipped, "users without a test example"),
            (
                self.items_without_features,
                f"items ({self.rows_without_features} rows) have no features",
            ),
            (self.features_without_items, "items with features occur in no row"),
        ]
        lines += [f"  {count:,} {text}" for count, text in notes if count]
        if self.train_sequences:
            lines.append(
                f"  training {self.train_rows:,} rows, {self.train_items:,} items, "
                f"{self.cold_items:,} cold items; validation {self.valid_users:,} users, "
                f"test {self.test_users:,} users"
            )
        return "\n".join(lines)
