// Holds JSON documents against the types that OpenAI and Anthropic publish: schema/openai.ts, schema/anthropic.ts. A line
// on stdin, { type, text } with a type such as "openai.chat", is answered by a line { type, problem }, where problem is
// null for a document that fits.
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import Ajv from "ajv";
import { createGenerator } from "ts-json-schema-generator";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const checks = {};
for (const source of ["openai", "anthropic"]) {
  // The published schemas allow fields that they do not name.
  const schema = createGenerator({
    path: here(`schema/${source}.ts`), tsconfig: here("schema/tsconfig.json"), type: "Published", topRef: false,
    additionalProperties: true, skipTypeCheck: true,
  }).createSchema("Published");
  const ajv = new Ajv({ strict: false, allErrors: true });
  for (const [name, one] of Object.entries(schema.properties)) {
    checks[`${source}.${name}`] = ajv.compile({ ...one, definitions: schema.definitions });
  }
}

console.log(JSON.stringify({ types: Object.keys(checks) }));
for await (const line of createInterface({ input: process.stdin })) {
  const { type, text } = JSON.parse(line);
  const fits = checks[type](JSON.parse(text));
  const problem = fits ? null : checks[type].errors.map((e) => `${e.instancePath || "/"} ${e.message}`).join("; ");
  console.log(JSON.stringify({ type, problem }));
}
