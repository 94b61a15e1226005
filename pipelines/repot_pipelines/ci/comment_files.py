"""Where the comment goes: a file for the workflow to post, and the summary of the job on GitHub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repot.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class CommentFiles:
    """The files that the comment is written to.

    Attributes:
        path: Holds the comment and nothing else; None for none.
        summary_path: The comment is appended to it; None for none.
        clean: Takes secrets out of the comment.
    """

    path: Path | None
    summary_path: Path | None
    clean: Callable[[str], str]

    def open(self, comment: str) -> None:
        """Write what is to stand in the file if the job is killed; a comment of an earlier job is gone.

        Raises:
            UsageError: The file cannot be written.
        """
        if self.path is None:
            return
        try:
            self.path.write_text(self.clean(comment), encoding="utf-8")
        except OSError as err:
            raise UsageError(
                f"--comment-file must name a file that can be written; got {self.path}: {err.strerror}. "
                "Make its folder first, or name another file."
            ) from err

    def write(self, comment: str) -> list[str]:
        """Write the comment to both, and return a sentence for each that cannot be written."""
        text = self.clean(comment)
        return [*_write(self.path, text, mode="w"), *_write(self.summary_path, text, mode="a")]


def _write(path: Path | None, text: str, *, mode: str) -> list[str]:
    if path is None:
        return []
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        return [f"The comment cannot be written to {path}: {err.strerror}."]
    return []
