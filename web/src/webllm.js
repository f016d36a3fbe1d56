// WebLLM: engine.chat.completions.create({stream: true}), whose usage tells how long the prompt was computed.

/** @param {import("@mlc-ai/web-llm").ChatCompletionChunk} chunk */
export function readChunk(chunk) {
  const { choices, usage, id, model } = chunk;
  const finish = choices.flatMap(({ finish_reason }) => finish_reason ?? []);
  const told = usage && {
    uncached: usage.prompt_tokens, // those of the beginning that lies in its KV cache are not counted
    output: usage.completion_tokens,
    prefill: (1000 * usage.prompt_tokens) / usage.extra.prefill_tokens_per_s,
  };
  const token = choices.some(({ delta }) => delta.content || delta.tool_calls?.length);
  return { token, response: id, model, ...(finish.length && { finish }), ...told };
}

/**
 * The chunks of a streamed chat. Usage is asked for; its chunk is kept from an application that did not ask itself.
 *
 * @param {import("./index.js").LlmTrace} llm
 * @param {import("@mlc-ai/web-llm").MLCEngineInterface} engine
 * @param {import("@mlc-ai/web-llm").ChatCompletionRequestStreaming} request
 */
export async function* chat(llm, engine, request) {
  const asked = request.stream_options?.include_usage;
  const known = { maxTokens: request.max_tokens, temperature: request.temperature };
  const call = { provider: "webllm", model: request.model ?? "default", local: true, ...known };
  const sent = { ...request, stream_options: { ...request.stream_options, include_usage: true } };
  const first = !request.messages.some(({ role }) => role === "assistant"); // then nothing can lie in the KV cache
  const read = (chunk) => ({ ...readChunk(chunk), ...(first && chunk.usage && { input: chunk.usage.prompt_tokens }) });
  for await (const chunk of llm.stream(call, () => engine.chat.completions.create(sent), read))
    if (asked || chunk.choices.length) yield chunk;
}
