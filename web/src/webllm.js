// WebLLM: a streamed chat, whose usage tells for how long the prompt was computed.

/** What a chunk tells. Of the prompt WebLLM counts what it computed, not what an earlier round left in its cache. */
export function readChunk({ choices, usage, id, model }, first) {
  const finish = choices.flatMap(({ finish_reason }) => finish_reason ?? []);
  const token = choices.some(({ delta }) => delta.content || delta.tool_calls?.length);
  const { prompt_tokens: uncached, completion_tokens: output, extra } = usage ?? {};
  const prefill = (1000 * uncached) / extra?.prefill_tokens_per_s;
  const counts = { uncached, output, prefill, ...(first && { input: uncached, cached: 0 }) };
  return { token, response: id, model, ...(finish.length && { finish }), ...(usage && counts) };
}

/**
 * A function that takes the request of a streamed `engine.chat.completions.create` and gives its chunks. `source`: the
 * engine, or the promise of one: a call that has to wait for it tells so. Usage goes on only to who asked for it.
 */
export function webllm(llm, model, source) {
  return async function* (request) {
    const { messages, stream_options: asked, max_tokens: maxTokens, temperature } = request;
    const sent = { ...request, stream: true, stream_options: { ...asked, include_usage: true } };
    const ask = async (call) => (await call.loading(async () => source)).chat.completions.create(sent);
    const first = !messages.some(({ role }) => role === "assistant"); // then nothing lies in its KV cache
    const call = { provider: "webllm", model, local: true, maxTokens, temperature };
    for await (const chunk of llm.stream(call, ask, (chunk) => readChunk(chunk, first)))
      if (chunk.choices.length || asked?.include_usage) yield chunk;
  };
}
