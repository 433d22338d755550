// What each client goes through; one JSON line on stdout for each case: { case, mode, text, error: { name, status, message } }.
// The model's name says what will happen to the request: see clients_spec.lua. Arguments: the base URL, the caller's token.
export const [base, token] = process.argv.slice(2);
export const messages = [{ role: "user", content: "hi" }];

const names = ["up", "over", "closed", "early", "cut", "gone", "left", "stalled"];
const LEAVES_MS = 250;
const STALLS_MS = 600;
const KEPT = 64; // of a text
const goes = (name) => name === "gone" || name === "left";

function describe(error) {
  const inner = error.lastError ?? error;
  return {
    name: inner.name,
    status: inner.status ?? inner.statusCode ?? null,
    message: String(inner.message) + (inner.responseBody ? " " + inner.responseBody : ""),
  };
}

// plain(model, signal) answers the whole text, stream(model, signal) yields its parts.
export async function run({ plain, stream }) {
  for (const name of names) {
    for (const mode of ["plain", "stream"]) {
      if (name === "stalled" && mode === "plain") continue;
      const leave = new AbortController();
      const timer = goes(name) ? setTimeout(() => leave.abort(), LEAVES_MS) : null;
      const result = { case: name, mode, text: "", error: null };
      try {
        if (mode === "plain") result.text = await plain(name, leave.signal);
        else for await (const part of stream(name, leave.signal)) {
          result.text = (result.text + part).slice(0, KEPT);
          if (name !== "stalled" || leave.signal.aborted || !part) continue;
          await new Promise((resolve) => setTimeout(resolve, STALLS_MS));
          leave.abort();
        }
        // Some clients end a stream quietly when its own reader asked for that.
        if (leave.signal.aborted) result.error = { name: "AbortError", status: null, message: "left" };
      } catch (error) {
        result.error = describe(error);
      }
      clearTimeout(timer);
      console.log(JSON.stringify(result));
    }
  }
}
