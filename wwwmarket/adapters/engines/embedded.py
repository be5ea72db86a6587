"""The embedded default: llama.cpp's own server (``xllamacpp``) in a child process, with a small model made on the spot.

``python -m wwwmarket.adapters.engines.embedded --model FILE`` is the child; ``EmbeddedEngine`` starts and owns it.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Final, Self

from wwwmarket.adapters.engines.child import ChildServer, announce, exit_with_parent
from wwwmarket.adapters.engines.child_engine import ChildEngine
from wwwmarket.adapters.engines.engine_listing import EngineFacts

MODEL_NAME: Final = "wwwmarket-tiny"
CONTEXT_TOKENS: Final = 4096
SEQUENCES: Final = 4
OUTPUT_TOKENS_DEFAULT: Final = 256
"""Where neither the request nor the grammar ends a reply."""
READY_TIMEOUT_S: Final = 30.0
FACTS: Final = EngineFacts(revision="1", precision="fp32", gpu_class="cpu")


class EmbeddedEngine(ChildEngine):
    """A llama.cpp with a model that may have been made for it: then the files go with the engine."""

    def __init__(
        self, child: ChildServer, facts: EngineFacts, files: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        super().__init__(child, facts)
        self._files = files

    @classmethod
    async def start(  # noqa: PLR0913 - what to serve, and how
        cls,
        *,
        model: Path | None = None,
        name: str = MODEL_NAME,
        seed: int = 0,
        sequences: int = SEQUENCES,
        facts: EngineFacts = FACTS,
        embeddings: bool = False,
    ) -> Self:
        """Start a server for ``model`` (a GGUF file), or for a small one made from ``seed``; ``embeddings`` as well.

        Raises:
            Unavailable: it did not come up in time; the message carries its last log lines.
        """
        files = None
        if model is None:
            from wwwmarket.adapters.engines.tiny_model import make_model

            files = tempfile.TemporaryDirectory(prefix="wwwmarket-engine-")
            model = Path(files.name) / f"{name.replace('/', '-')}.gguf"
            make_model(model, seed=seed, name=name)
        arguments = ["--model", str(model), "--name", name, "--sequences", str(sequences)]
        if embeddings:
            arguments.append("--embeddings")
        try:
            child = await ChildServer.start(
                "wwwmarket.adapters.engines.embedded", arguments, ready_timeout_s=READY_TIMEOUT_S
            )
        except BaseException:
            if files is not None:
                files.cleanup()
            raise
        return cls(child, facts, files)

    async def close(self) -> None:
        await super().close()
        if self._files is not None:
            self._files.cleanup()


def serve(model: Path, *, name: str, sequences: int, context_tokens: int, embeddings: bool) -> None:
    """The child: serve ``model`` on a free port of this machine until standard input ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {name}
    parameters.n_ctx = context_tokens * sequences
    parameters.n_parallel = sequences
    parameters.n_predict = OUTPUT_TOKENS_DEFAULT
    parameters.cpuparams.n_threads = 1
    parameters.port = 0
    parameters.endpoint_metrics = True
    parameters.ui = False
    parameters.warmup = False
    parameters.verbosity = 1
    parameters.cache_ram_mib = 0
    if embeddings:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(parameters)
    announce(int(server.listening_address.rsplit(":", 1)[1]))
    exit_with_parent()


def main() -> None:
    parser = argparse.ArgumentParser(description="A llama.cpp server that ends with its standard input.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", default=MODEL_NAME)
    parser.add_argument("--sequences", type=int, default=SEQUENCES)
    parser.add_argument("--context-tokens", type=int, default=CONTEXT_TOKENS)
    parser.add_argument("--embeddings", action="store_true")
    options = parser.parse_args()
    serve(
        options.model,
        name=options.name,
        sequences=options.sequences,
        context_tokens=options.context_tokens,
        embeddings=options.embeddings,
    )


if __name__ == "__main__":
    main()
