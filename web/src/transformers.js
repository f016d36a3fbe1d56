// transformers.js: a streamer is given the prompt's ids as generation begins, and each token's as it was drawn.

/**
 * A function with the arguments and results of `source`, a text-generation pipeline; or of a model's `generate`, its
 * inputs first. `source` may be the promise of one: a call that has to wait for it tells so.
 */
export function transformers(llm, model, source) {
  return async (input, options = {}) => {
    const settings = { maxTokens: options.max_new_tokens, temperature: options.temperature };
    const call = llm.begin({ provider: "transformers.js", model, local: true, ...settings });
    try {
      const engine = await call.loading(async () => source);
      const given = { ...options, streamer: timed(call, options) };
      const result = await (engine.model ? engine(input, given) : engine.generate({ ...input, ...given }));
      call.end("completed");
      return result;
    } catch (error) {
      call.end(undefined, error);
      throw error;
    }
  };
}

function timed(call, { past_key_values: past, streamer }) {
  const cached = past ? (past.get_seq_length?.() ?? NaN) : 0; // NaN: nobody knows
  return {
    put(ids) {
      if (call.prompted === undefined) call.prompt(ids.flat().length, cached);
      else call.chunk({ output: (call.output ?? 0) + ids.length, tokenEach: ids.length === 1 });
      return streamer?.put(ids);
    },
    end: () => streamer?.end(),
  };
}
