"""One node process of ``live_against_simulated.py``: as ``wwwmarket node run`` or ``wwwmarket provider join``, with the
simulator's configuration instead of a preset.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec.structs import replace as changed

from wwwmarket.bootstrap import NodeSettings, OfferSettings, Running, begin_selling, open_engine, open_node
from wwwmarket.config import WAN, NodeConfig
from wwwmarket.dispatch.fitting import Fit
from wwwmarket.dispatch.prediction import PROMPT_TOKENS_TYPICAL
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Transfer
from wwwmarket.market.policy import Policy
from wwwmarket.simulator.fleet import NodeSpec
from wwwmarket.simulator.marketplace import MARGIN_PPM
from wwwmarket.simulator.providing import COST_PPM, HOLD_MS, LIST_PRICE, QUEUE_FACTOR

CREDITS_MICRO = 10**15
SHARE_MICRO = 10**13
"""What each node begins with, of what the founder has."""
PROMISE = Slo(ttft_ms=60_000, tpot_ms=1_000)


ASK_TIMEOUT_MS = 3_000
"""Longer than the simulator's: there nobody on one machine ever needs more than some milliseconds, so its own bound is
never met. A machine that is short of processors must not look like a market of silent providers.
"""


def configuration() -> NodeConfig:
    """What the simulator's market runs with, but for ``ASK_TIMEOUT_MS``."""
    terms = replace(WAN.auction, margin_ppm=MARGIN_PPM, hold_ms=HOLD_MS, ask_timeout_ms=ASK_TIMEOUT_MS)
    return replace(WAN, auction=terms)


def fit_of(spec: NodeSpec) -> Fit:
    """What a benchmark of that engine would come to: its step times alone, and with all slots taken."""
    model = spec.step_time()
    alone_ms = model.step_ms(1, PROMPT_TOKENS_TYPICAL)
    full_ms = model.step_ms(spec.slots, spec.slots * PROMPT_TOKENS_TYPICAL)
    return Fit(
        ttft_ms=model.front_end_ms + alone_ms,
        ttft_ms_per_token=model.token_ms,
        tpot_ms=alone_ms,
        tpot_ms_per_sequence=(full_ms - alone_ms) / max(1, spec.slots - 1),
        ttft_error_ppm=0,
        tpot_error_ppm=0,
    )


def offer_of(engine: str, slots: int) -> OfferSettings:
    return OfferSettings(
        engines=(engine,),
        model=None,
        prices=LIST_PRICE,
        slo=PROMISE,
        sequences=QUEUE_FACTOR * slots,
        tokens_per_s=1_000,
        policy=changed(Policy(), floor_ppm=COST_PPM),
        precision="bf16",
    )


async def serve(options: argparse.Namespace) -> None:
    settings = NodeSettings(
        data=options.data,
        market=options.market,
        origin="live.test",
        credits_micro=CREDITS_MICRO,
        config=configuration(),
    )
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with contextlib.AsyncExitStack() as stack:
        spec = msgspec.json.decode(options.spec, type=NodeSpec)
        offer = None if options.engine is None else offer_of(options.engine, spec.slots)
        opened = None if offer is None else await stack.enter_async_context(open_engine(offer))
        running = await stack.enter_async_context(open_node(settings))
        for account in options.pay:
            transfer = Transfer(to=AccountId(account), amount_micro=SHARE_MICRO)
            await running.node.author.settle(running.node.world.key.account, transfer)
        if opened is not None and offer is not None:
            fit = fit_of(spec)
            await begin_selling(running.node, opened.engine, opened.description, opened.served, offer, fit=fit)
        announce(running, options.ready)
        failing = asyncio.ensure_future(running.node.wait_failed())
        stopping = asyncio.ensure_future(told.wait())
        await asyncio.wait((failing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            await failing
        failing.cancel()


def announce(running: Running, ready: Path) -> None:
    told = {"gateway": running.gateway, "account": running.node.id, "admin_token": running.admin_token}
    beside = ready.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(told))
    beside.replace(ready)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--market", help="gateway of the founding node; without it this node founds")
    parser.add_argument("--pay", action="append", default=[], help="account that a founder gives its share")
    parser.add_argument("--engine", help="base address of the engine to sell")
    parser.add_argument("--spec", default='{"gpu": "H100-SXM", "model": "Qwen3-0.6B"}', help="the engine, as JSON")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
