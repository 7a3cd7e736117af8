"""What vLLM says of its prefix cache: how large it is, and how much of all prompts was found in it.

Names and units as in vLLM 0.32.0: `v1/metrics/loggers.py` (the counters are in tokens, each prompt counted once, when
it is admitted) and `config/cache.py` (all of the cache's settings are labels of one gauge).
"""

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
CONFIG = "vllm:cache_config_info"


class PrefixCache(Struct, frozen=True):
    """Tokens that fit into the cache, tokens of all prompts so far, and those of them that were found in it."""

    capacity_tokens: int = 0
    queries_tokens: int = 0
    hits_tokens: int = 0


def read(text: str) -> PrefixCache:
    """The cache that `/metrics` tells of. What it does not tell is 0.

    Raises:
        ValueError: it is not what a Prometheus endpoint says.
    """
    counted = {QUERIES: 0.0, HITS: 0.0}
    capacity = 0
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in counted:
                    counted[sample.name] += sample.value
                if sample.name == CONFIG and sample.labels.get("enable_prefix_caching", "True") == "True":
                    # One block is vLLM's null block, which holds nothing (v1/core/block_pool.py).
                    capacity += (int(sample.labels["num_gpu_blocks"]) - 1) * int(sample.labels["block_size"])
    except KeyError as error:
        raise ValueError(f"{CONFIG} has no label {error}") from error
    return PrefixCache(max(0, capacity), int(counted[QUERIES]), int(counted[HITS]))
