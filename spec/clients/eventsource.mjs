// No SDK: fetch, and a parser of server-sent events that knows nothing of anybody's API.
import { EventSourceParserStream } from "eventsource-parser/stream";
import { base, messages, run, token } from "./cases.mjs";

async function post(model, signal, stream) {
  const response = await fetch(base + "/chat/completions", {
    method: "POST", signal,
    headers: { "content-type": "application/json", authorization: "Bearer " + token },
    body: JSON.stringify({ model, messages, stream }),
  });
  if (response.ok) return response;
  throw Object.assign(new Error(await response.text()), { name: "HttpError", status: response.status });
}

await run({
  async plain(model, signal) {
    return (await (await post(model, signal, false)).json()).choices[0].message.content;
  },
  async *stream(model, signal) {
    const response = await post(model, signal, true);
    let failed, done;
    try {
      const decoded = response.body.pipeThrough(new TextDecoderStream());
      for await (const event of decoded.pipeThrough(new EventSourceParserStream({ onError: "terminate" }))) {
        if (event.data === "[DONE]") { done = true; continue; }
        const json = JSON.parse(event.data);
        if (json.error) failed = json.error;
        else yield json.choices[0]?.delta.content ?? "";
      }
    } catch (error) {
      // The end is unclean as well as announced.
      if (failed) throw Object.assign(new Error(failed.message), { name: failed.code });
      throw error;
    }
    if (failed) throw Object.assign(new Error("a clean end after an error event"), { name: "CleanEnd" });
    if (!done) throw Object.assign(new Error("no [DONE]"), { name: "NoDone" });
  },
});
