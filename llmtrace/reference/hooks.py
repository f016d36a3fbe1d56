"""All of `transformers.generation.continuous_batching` that `engine`, `blocks` and `paged_attention` rely on.

It is no public API, and another in another minor version: tests hold this list to what is there and to what is used.
"""

from __future__ import annotations

__all__ = ["HOOKS"]

HOOKS: dict[str, tuple[str, ...]] = {
    "continuous_api.ContinuousBatchProcessor": (
        "prepare_next_batch",
        "update_batch",
        "warmup",
        "cache",
        "scheduler",
        "inputs_and_outputs",
        "model_runner",
        "offloading_manager",
    ),
    "continuous_api.ContinuousBatchingManager": (
        "continuous_batching_config",
        "distributed_helper",
        "background_thread_status",
    ),
    "model_runner.ModelRunner": (
        "compute_batch",
        "pad_inputs",
        "_capture_graph",
        "use_cuda_graph_varlen",
        "use_cuda_graph_decode",
    ),
    "input_outputs.ContinuousBatchingIOs": (
        "get_model_kwargs",
        "retrieve_device_outputs",
        "requests_in_batch",
        "compute_stream",
        "graphs",
    ),
    "scheduler.FIFOScheduler": (
        "reset",
        "schedule_batch",
        "_process_candidates",
        "_schedule_request",
        "active_requests",
        "waiting_requests",
        "starved_requests",
        "block_new_requests",
        "add_waiting_request",
        "set_request_cancellation",
        "clear_cancelled_requests",
        "cache",
        "max_requests_per_batch",
        "safety_margin",
    ),
    "cache.PagedAttentionCache": (
        "search_prefix_match",
        "mark_complete_blocks",
        "free_blocks",
        "evict_cached_blocks",
        "compute_free_capacity",
        "update",
        "cache_allocators",
        "layer_to_allocator",
        "max_batch_tokens",
        "num_blocks",
        "pool",
    ),
    "cache_allocators.full_attention.FullAttentionCacheAllocator": (
        "update",
        "get_cache_for_block_table",
        "block_physical_stride",
        "block_table",
        "bytes_per_block",
        "index",
        "ledger",
        "tokens_per_page",
    ),
    "cache_allocators.cache_allocator.BlockLedger": ("block_to_hash", "cached_blocks", "hash_to_block"),
    "cache_allocators.cache_pool.CachePool": ("free_blocks",),
    "cb_logits_processors.ContinuousBatchingLogitsProcessorList": (
        "tensors_required",
        "do_processing",
        "fill_defaults",
        "prepare_tensor_args",
        "__call__",
    ),
    "continuous_api.ContinuousMixin": ("init_continuous_batching",),
    "continuous_api.OutputRouter": ("deliver", "deliver_batch"),
    "offloading_manager.OffloadingManager": ("free_request_cpu_cache",),
    "requests.FutureRequestState": ("has_new_token", "query_length", "state"),
    "requests.RequestState": (
        "request_id",
        "initial_tokens",
        "generated_tokens",
        "remaining_prefill_tokens",
        "tokens_to_process",
        "position_offset",
        "status",
    ),
    "requests.RequestStatus": ("DECODING", "PREFILLING"),
}
"""By class, what is called, set, overridden or read of it."""
