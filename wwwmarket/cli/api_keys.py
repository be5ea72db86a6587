"""``wwwmarket node keys``: the API keys of a gateway, their limits and their money."""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from wwwmarket.cli.amounts import parse_credits
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json, option
from wwwmarket.cli.output import emit, fail
from wwwmarket.domain.errors import Malformed
from wwwmarket.market.allowance import Limits, Period

_KEYS: Final = """The API keys of a gateway: limits, budgets, secrets. Its admin token is in its data directory.

\b
  wwwmarket node keys create --name ada --budget 5
  wwwmarket node keys create --name ci --budget 2 --budget-per day --allow-model qwen3-8b --requests-per-minute 60
  wwwmarket node keys top-up ID 10
  wwwmarket node keys rotate ID
  wwwmarket node keys list --json
"""

_CREATE: Final = """Make an API key, paid from the node's account. Its secret is shown this once.

With --budget-per the budget is filled up again at the first request of each period; without it, it is all there is.

\b
  wwwmarket node keys create --name ada --budget 5
  wwwmarket node keys create --name ci --budget 2 --budget-per day --max-price 0.01
  OPENAI_API_KEY=$(wwwmarket node keys create --name ci --budget 1 --json | jq -r .key)
"""

_LIMIT: Final = """Set an API key's limits anew: what is not given has no limit from now on.

\b
  wwwmarket node keys limit ID --requests-per-minute 60 --tokens-per-minute 100000
  wwwmarket node keys limit ID --allow-model qwen3-8b --allow-model llama-3-8b
"""

_IDEMPOTENCY: Final = "A name of your choice: the same one moves the credits once, however often you try."
_PERIODS_MS: Final = {"hour": 3_600_000, "day": 86_400_000, "week": 7 * 86_400_000, "month": 30 * 86_400_000}

keys_app = typer.Typer(help=_KEYS, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

AdminTokenFile: TypeAlias = Annotated[
    Path | None,
    option("--admin-token-file", "The node's admin.token; else the one in your user data directory.", metavar="FILE"),
]
KeyId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as 'list' shows it.")]
Amount: TypeAlias = Annotated[int, typer.Argument(metavar="CREDITS", help="How much.", parser=parse_credits)]
Idempotency: TypeAlias = Annotated[str | None, option("--idempotency-key", _IDEMPOTENCY, metavar="NAME")]
PeriodName: TypeAlias = Literal["hour", "day", "week", "month"]
Models: TypeAlias = Annotated[
    list[str] | None, option("--allow-model", "A model that it may use; repeatable. Else all of them.", metavar="MODEL")
]
MaxPrice: TypeAlias = Annotated[
    int | None,
    option("--max-price", "Credits that one request may cost at most.", parser=parse_credits, metavar="CREDITS"),
]
RequestsPerMinute: TypeAlias = Annotated[int | None, option("--requests-per-minute", "Requests in any minute.", min=1)]
TokensPerMinute: TypeAlias = Annotated[
    int | None, option("--tokens-per-minute", "Tokens in any minute, read and written.", min=1)
]
BudgetPer: TypeAlias = Annotated[
    PeriodName | None, option("--budget-per", "Fill the budget up again each period (a month is 30 days).")
]


@keys_app.command(help=_CREATE)
def create(  # noqa: PLR0913 - each is a choice about the key
    *,
    name: Annotated[str, option("--name", "Whose key it is, for the list.")],
    budget: Annotated[
        int, option("--budget", "Credits that it may spend.", parser=parse_credits, metavar="CREDITS")
    ] = "0",  # type: ignore[assignment] # typer parses defaults, too
    budget_per: BudgetPer = None,
    allow_model: Models = None,
    max_price: MaxPrice = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    gateway: Gateway = GATEWAY,
    admin_token_file: AdminTokenFile = None,
    json: Json = False,
) -> None:
    from wwwmarket.gateway.keys import CreatedKey, NewKey

    limits = _limits(allow_model, max_price, requests_per_minute, tokens_per_minute, _period(budget_per, budget))
    with admin_client(gateway, admin_token_file) as client:
        emit(client.post("/v1/keys", NewKey(name, budget, limits), CreatedKey), json)


@keys_app.command("list")
def list_keys(*, gateway: Gateway = GATEWAY, admin_token_file: AdminTokenFile = None, json: Json = False) -> None:
    """All API keys of this gateway, without their secrets, and what each has left."""
    from wwwmarket.gateway.keys import KeyList
    from wwwmarket.node.service import AccountView

    with admin_client(gateway, admin_token_file) as client:
        rows = [
            {
                "id": key.id,
                "name": key.name,
                "account": key.account,
                "revoked": key.revoked,
                "created_ms": key.created_ms,
                "available_micro": client.get(f"/v1/accounts/{key.account}", AccountView).balance.available_micro,
                "limits": key.limits,
            }
            for key in client.get("/v1/keys", KeyList).data
        ]
    emit(rows, json)


@keys_app.command(help=_LIMIT)
def limit(  # noqa: PLR0913 - each is a choice about the key
    key_id: KeyId,
    *,
    budget: Annotated[
        int | None,
        option("--budget", "With --budget-per: what each period gives.", parser=parse_credits, metavar="CREDITS"),
    ] = None,
    budget_per: BudgetPer = None,
    allow_model: Models = None,
    max_price: MaxPrice = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    gateway: Gateway = GATEWAY,
    admin_token_file: AdminTokenFile = None,
    json: Json = False,
) -> None:
    from wwwmarket.node.service import ApiKeyView

    limits = _limits(allow_model, max_price, requests_per_minute, tokens_per_minute, _period(budget_per, budget))
    with admin_client(gateway, admin_token_file) as client:
        emit(client.put(f"/v1/keys/{key_id}/limits", limits, ApiKeyView), json)


@keys_app.command()
def rotate(
    key_id: KeyId, *, gateway: Gateway = GATEWAY, admin_token_file: AdminTokenFile = None, json: Json = False
) -> None:
    """Give a key another secret, shown this once; the old one is refused from now on. Budget and limits stay."""
    from wwwmarket.gateway.keys import CreatedKey

    with admin_client(gateway, admin_token_file) as client:
        emit(client.post(f"/v1/keys/{key_id}/rotate", {}, CreatedKey), json)


@keys_app.command()
def revoke(
    key_id: KeyId, *, gateway: Gateway = GATEWAY, admin_token_file: AdminTokenFile = None, json: Json = False
) -> None:
    """Revoke an API key; what it has left goes back to the node's account."""
    from wwwmarket.node.service import ApiKeyView

    with admin_client(gateway, admin_token_file) as client:
        emit(client.request("DELETE", f"/v1/keys/{key_id}", ApiKeyView), json)


@keys_app.command("top-up")
def top_up(  # noqa: PLR0913 - each is a choice about the payment
    key_id: KeyId,
    amount: Amount,
    *,
    idempotency_key: Idempotency = None,
    gateway: Gateway = GATEWAY,
    admin_token_file: AdminTokenFile = None,
    json: Json = False,
) -> None:
    """Pay more credits to an API key, from the node's account."""
    with admin_client(gateway, admin_token_file) as client:
        _move(client, f"/v1/keys/{key_id}/top-up", amount, idempotency_key, json=json)


@keys_app.command()
def refund(  # noqa: PLR0913 - each is a choice about the payment
    key_id: KeyId,
    amount: Amount,
    *,
    idempotency_key: Idempotency = None,
    gateway: Gateway = GATEWAY,
    admin_token_file: AdminTokenFile = None,
    json: Json = False,
) -> None:
    """Take credits back from an API key to the node's account; what open awards lock stays locked."""
    with admin_client(gateway, admin_token_file) as client:
        _move(client, f"/v1/keys/{key_id}/refund", amount, idempotency_key, json=json)


def _move(client: GatewayClient, path: str, amount_micro: int, name: str | None, *, json: bool) -> None:
    from wwwmarket.gateway.keys import Amount as Form
    from wwwmarket.node.service import ApiKeyView

    headers = None if name is None else {"idempotency-key": name}
    emit(client.post(path, Form(amount_micro), ApiKeyView, headers), json)


def _limits(
    models: list[str] | None,
    price_max_micro: int | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    period: Period | None,
) -> Limits:
    return Limits(
        models=tuple(models or ()),
        price_max_micro=price_max_micro,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        period=period,
    )


def _period(name: PeriodName | None, budget_micro: int | None) -> Period | None:
    if name is None:
        return None
    if not budget_micro:
        raise Malformed("--budget-per fills a --budget up: say how much")
    return Period(budget_micro=budget_micro, length_ms=_PERIODS_MS[name])


def admin_client(gateway: str, token_file: Path | None) -> GatewayClient:
    """Speaks with the node's admin token; ends the program where that cannot be read."""
    from wwwmarket.bootstrap import default_data

    path = token_file or default_data("node") / "admin.token"
    try:
        return GatewayClient(gateway, path.read_text().strip())
    except OSError as error:
        fail(f"the admin token cannot be read: {error.strerror}: {path}")
