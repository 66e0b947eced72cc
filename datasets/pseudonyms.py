"""Patient identifiers to pseudonyms that only the owner of a key can make or undo."""

import base64
import hashlib
import hmac
import secrets
import tempfile
from pathlib import Path

import pandas as pd

from datasets.annotations import CohortError
from datasets.tables import read_csv, to_csv

KEY_BYTES = 32
CHARACTERS = 12  # 60 bits: among 10,000 patients two share a pseudonym with a probability of 4e-11


def pseudonymise(annotations: pd.DataFrame, key_file: Path) -> pd.DataFrame:
    """The annotations with HMAC-SHA256 pseudonyms (RFC 2104) for patient_id; other columns, site too, stay.

    The key is made on first use and the same key always gives the same pseudonyms. A table beside it,
    <key file>.patients.csv, keeps every patient_id it was used for. Both are readable by their owner only.

    Raises:
        CohortError: the key file is malformed, not readable or readable by others, or two patients share a pseudonym.
    """
    key, table = _key(key_file), key_file.with_name(f"{key_file.name}.patients.csv")
    patients = annotations[["patient_id"]].drop_duplicates()
    patients = patients.assign(pseudonym=[_pseudonym(key, patient) for patient in patients["patient_id"]])
    known = [read_csv(table, {"patient_id": str, "pseudonym": str})] if table.exists() else []
    everyone = pd.concat([*known, patients]).drop_duplicates(ignore_index=True)
    if not everyone["pseudonym"].is_unique:
        raise CohortError(f"{key_file}: two patients share a pseudonym; name another key file")
    with tempfile.NamedTemporaryFile("w", dir=table.parent, delete=False, encoding="utf-8") as file:  # mode 0600
        file.write(to_csv(everyone))
    Path(file.name).replace(table)
    return annotations.assign(patient_id=annotations["patient_id"].map(patients.set_index("patient_id")["pseudonym"]))


def _key(file: Path) -> bytes:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(0o600, exist_ok=False)
            file.write_text(secrets.token_hex(KEY_BYTES) + "\n")
        key, mode = bytes.fromhex(file.read_text(encoding="ascii")), file.stat().st_mode
    except (OSError, ValueError) as error:
        raise CohortError(f"{file}: no usable key ({type(error).__name__}); restore it, or name a new file") from error
    if len(key) != KEY_BYTES:
        raise CohortError(f"{file}: the key has {len(key)} bytes, not {KEY_BYTES}; restore it, or name a new file")
    if mode & 0o077:
        raise CohortError(f"{file}: others may read the key (mode {mode & 0o777:o}); run chmod 600 on it")
    return key


def _pseudonym(key: bytes, patient: str) -> str:
    digest = hmac.new(key, patient.encode(), hashlib.sha256).digest()
    return f"P-{base64.b32encode(digest).decode()[:CHARACTERS]}"
