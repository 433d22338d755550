import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { base, messages, run, token } from "./cases.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const provider = createOpenAICompatible({ name: "deputy", baseURL: base, apiKey: token });
const request = (model, signal) => ({ model: provider(model), messages, maxRetries: 0, abortSignal: signal });

await run({
  async plain(model, signal) {
    return (await generateText(request(model, signal))).text;
  },
  // textStream would drop errors: fullStream has them as parts.
  async *stream(model, signal) {
    for await (const part of streamText({ ...request(model, signal), onError() {} }).fullStream) {
      if (part.type === "error") throw part.error instanceof Error ? part.error : new Error(JSON.stringify(part.error));
      if (part.type === "text-delta") yield part.text;
    }
  },
});
