// What each client goes through; one JSON line on stdout for each case: { case, mode, text, error: { name, status, message } }.
// The model's name says what will happen to the request: see clients_spec.lua. Arguments: the base URL, the caller's token.
export const [base, token] = process.argv.slice(2);
export const messages = [{ role: "user", content: "hi" }];

const names = ["up", "over", "closed", "cut", "gone"];
const LEAVES_MS = 250;

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
      const leave = new AbortController();
      const timer = name === "gone" ? setTimeout(() => leave.abort(), LEAVES_MS) : null;
      const result = { case: name, mode, text: "", error: null };
      try {
        if (mode === "plain") result.text = await plain(name, leave.signal);
        else for await (const part of stream(name, leave.signal)) result.text += part;
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
