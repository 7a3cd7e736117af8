"""What vLLM's metrics say of its prefix cache."""

import pytest

from p2pagent.engine.vllm_metrics import PrefixCache, read

METRICS = """
# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1632.0
# HELP vllm:prefix_cache_queries_created Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_created gauge
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.79e+09
# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1.28e+03
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="32",enable_prefix_caching="True",engine="0",num_gpu_blocks="65"} 1.0
"""


def test_size_and_counters_are_in_tokens():
    assert read(METRICS) == PrefixCache(64 * 32, 1632, 1280)


def test_a_cache_that_is_switched_off_has_no_size():
    off = METRICS.replace('enable_prefix_caching="True"', 'enable_prefix_caching="False"')
    assert read(off).capacity_tokens == 0


def test_what_is_not_told_is_nothing():
    assert read("") == PrefixCache()
    assert read("# HELP other x\n# TYPE other gauge\nother 3\n") == PrefixCache()


@pytest.mark.parametrize(
    "text",
    [
        "vllm:prefix_cache_hits_total{ 1",
        METRICS.replace('"65"', '"many"'),
        METRICS.replace("num_gpu_blocks", "blocks"),
        "<html>no</html>",
    ],
)
def test_nonsense_is_no_answer(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever part of the text
        read(text)
