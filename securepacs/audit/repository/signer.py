"""The signer of checkpoints: it remembers the last tree it signed and refuses every tree that does not continue it.

What it remembers stands in a file of its own, outside the store, so that whoever rewrites the store cannot have the result signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from securepacs.audit.checkpoint import Checkpoint, LogKey, LogPublicKey
from securepacs.audit.merkle import verify_consistency
from securepacs.audit.segments import sync_folder, write_file
from securepacs.errors import ConfigError, IntegrityFailure, MalformedError, Unavailable, VerificationError


class LogSigner:
    """Signs trees that grow. `state` is the file of the last checkpoint; it is made with the first one."""

    def __init__(self, key: LogKey, state: Path) -> None:
        self._key = key
        self._state = state

    @classmethod
    def load(cls, key_file: Path, *, origin: str, state: Path | None = None) -> LogSigner:
        """Read an Ed25519 key (PEM); the state stands beside it unless another path is given. Raises ConfigError."""
        try:
            pem = key_file.read_bytes()
        except OSError as error:
            raise ConfigError(f"the log key {key_file} cannot be read: {error.strerror}", key="log_key") from None
        return cls(LogKey.load(pem, origin=origin), state or key_file.with_name(key_file.name + ".last"))

    @property
    def public(self) -> LogPublicKey:
        """The key checkpoints are verified with."""
        return self._key.public

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint signed; IntegrityFailure when the file is damaged or of another key."""
        try:
            note = self._state.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise IntegrityFailure(f"the last checkpoint in {self._state} cannot be read") from None
        try:
            return self.public.verify(note)
        except (MalformedError, VerificationError):
            raise IntegrityFailure(f"the last checkpoint in {self._state} is damaged, or of another key") from None

    def sign(self, size: int, root: bytes, proof: Callable[[int], Sequence[bytes]]) -> Checkpoint:
        """Sign a tree; `proof(old)` gives its consistency proof from `old` leaves.

        Raises IntegrityFailure when the tree does not continue the last one signed; then nothing is signed.
        """
        last = self.last
        if last is not None and last.size > size:
            raise IntegrityFailure(f"the audit log has {size} entries, and {last.size} were signed: entries are missing")
        if last is not None and last.size:
            try:
                verify_consistency(last.size, size, last.root, root, proof(last.size))
            except VerificationError:
                raise IntegrityFailure(f"the first {last.size} entries of the audit log are not those that were signed") from None
        checkpoint = self._key.sign(size, root)
        self._remember(checkpoint)
        return checkpoint

    def _remember(self, checkpoint: Checkpoint) -> None:
        """Before the checkpoint leaves: after a crash the signer knows at least what the world may know."""
        fresh = self._state.with_name(self._state.name + ".new")
        try:
            write_file(fresh, checkpoint.note.encode())
            fresh.replace(self._state)
            sync_folder(self._state.parent)
        except OSError as error:
            raise Unavailable(f"the last checkpoint cannot be kept in {self._state}: {error.strerror}") from None
