import { ChatOpenAI } from "@langchain/openai";
import { base, run, token } from "./cases.mjs";

const chat = (model) => new ChatOpenAI({ model, apiKey: token, maxRetries: 0, configuration: { baseURL: base } });

await run({
  async plain(model, signal) {
    return (await chat(model).invoke("hi", { signal })).content;
  },
  async *stream(model, signal) {
    for await (const chunk of await chat(model).stream("hi", { signal })) yield chunk.content;
  },
});
