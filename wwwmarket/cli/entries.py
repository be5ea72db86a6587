"""What an entry says, in a line for people."""

from collections.abc import Mapping
from typing import Any


def says(body: Mapping[str, Any]) -> str:  # noqa: C901, PLR0912 - one case a kind
    """One line of what an entry is about."""
    match body["kind"]:
        case "offer/v1":
            told = f"{body['model']['name']} at {body['prices']['output_micro_per_mtok']} micro-credits per 1M output"
        case "award/v1":
            told = f"to {body['winner']['signer'][:12]}, locks {body['locked_micro']} micro-credits"
        case "settlement/v1":
            told = f"award {body['award'][:12]}, {body['attestation']['body']['outcome']}"
        case "transfer/v1":
            told = f"{body['amount_micro']} micro-credits to {body['to'][:12]}"
        case "tab/v1":
            told = f"locks {body['locked_micro']} micro-credits for {body['provider'][:12]}"
        case "tab-settlement/v1":
            count = len(body["unvouched"]) + (body["voucher"]["body"]["count"] if body["voucher"] else 0)
            told = f"tab {body['tab'][:12]}, {count} answers"
        case "withdrawal/v1":
            told = f"offer {body['offer'][:12]}"
        case "dispute/v1":
            told = f"award {body['award'][:12]}, of which nothing came"
        case "rotation/v1" | "delegation/v1":
            told = f"{body['consent']['signer'][:12]} as {body['consent']['body']['role']}"
        case "revocation/v1":
            told = f"machine {body['key'][:12]}"
        case "guard/v1":
            told = f"recovery by {(body['recovery'] or 'nobody')[:12]}"
        case "decree/v1":
            told = str(body["resolution"]["body"]["kind"])
        case "genesis/v1":
            told = str(body["origin"])
        case "mark/v1":
            told = f"at {body['at_ms']} ms"
        case _:
            told = ""
    return told
