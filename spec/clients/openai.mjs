import OpenAI from "openai";
import { base, messages, run, token } from "./cases.mjs";

const client = new OpenAI({ baseURL: base, apiKey: token, maxRetries: 0 });

await run({
  async plain(model, signal) {
    const reply = await client.chat.completions.create({ model, messages }, { signal });
    return reply.choices[0].message.content;
  },
  async *stream(model, signal) {
    const events = await client.chat.completions.create({ model, messages, stream: true }, { signal });
    for await (const event of events) yield event.choices[0]?.delta.content ?? "";
  },
});
