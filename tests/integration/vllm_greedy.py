"""Run by the engine's own interpreter: what vLLM answers greedily, in one process for several models in turn.

The argument is the most tokens of an answer. Reads `{model folder: [prompt, ...]}` as JSON from standard input and
writes `{model folder: [[token id, ...], ...]}` as the last line of standard output. A server for each model would
compute the same, and take twenty seconds each to start.
"""

import json
import sys

from vllm import LLM, SamplingParams

from_folders = {}
for folder, prompts in json.load(sys.stdin).items():
    llm = LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=64 << 20,
        block_size=32,
        generation_config="vllm",
    )
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    outputs = llm.chat(turns, SamplingParams(temperature=0, max_tokens=int(sys.argv[1])), use_tqdm=False)
    from_folders[folder] = [list(output.outputs[0].token_ids) for output in outputs]
    llm.llm_engine.engine_core.shutdown()
sys.stdout.write(json.dumps(from_folders) + "\n")
