// transformers.js: a streamer sees the prompt's ids as generation begins, and each token as it was drawn.

/** A streamer that times `call` and hands everything on to `inner`, the application's own. */
export function timed(call, cached, inner) {
  let prompt = true;
  return {
    put(ids) {
      if (prompt) call.prompt(ids[0].length, cached);
      else call.chunk();
      prompt = false;
      return inner?.put(ids);
    },
    end: () => inner?.end(),
  };
}

/**
 * `generator(input, options)` of a text-generation pipeline, or `model.generate(options)` where `input` is undefined.
 *
 * @param {import("./index.js").LlmTrace} llm
 */
export async function generate(llm, generator, input, options = {}) {
  const call = llm.begin({ provider: "transformers.js", model: nameOf(generator), local: true, maxTokens: options.max_new_tokens });
  const streamer = timed(call, options.past_key_values?.get_seq_length?.() ?? 0, options.streamer);
  const given = { ...options, streamer };
  try {
    const result = await (input === undefined ? generator.generate(given) : generator(input, given));
    call.tell({ output: call.chunks, tokenEach: true });
    call.end("completed");
    return result;
  } catch (error) {
    call.end(undefined, error);
    throw error;
  }
}

const nameOf = (generator) => (generator.model ?? generator).config?._name_or_path || "transformers.js";
