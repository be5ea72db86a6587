// What the JavaScript SDK makes of a gateway: one JSON object on standard output.
import OpenAI from "openai";

const [baseURL, apiKey, model, caller] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: [{ type: "text", text: "Tell me about the river." }] }];
const tools = [{
  type: "function",
  function: { name: "price", parameters: { type: "object", properties: { of: { type: "string" } }, required: ["of"] } },
}];
const schema = {
  type: "object", properties: { fair: { type: "boolean" } }, required: ["fair"], additionalProperties: false,
};
const told = {};

const whole = await client.chat.completions.create({ model, messages, max_tokens: 16 });
told.whole = { text: whole.choices[0].message.content, cost: whole.usage.cost, award: whole.wwwmarket.award };

let text = "", usage = null, chunks = 0;
const stream = await client.chat.completions.create({
  model, messages, max_tokens: 200, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  chunks += 1;
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
told.stream = { text, chunks, usage };

const called = await client.chat.completions.create({ model: caller, messages, tools, max_tokens: 200 });
told.tools = called.choices[0].message.tool_calls ?? null;

const streamed = await client.chat.completions.create({
  model: caller, messages, tools, tool_choice: "required", max_tokens: 200, stream: true,
});
let name = "", args = "";
for await (const chunk of streamed) {
  for (const call of chunk.choices[0]?.delta?.tool_calls ?? []) {
    name += call.function?.name ?? "";
    args += call.function?.arguments ?? "";
  }
}
told.streamedTools = { name, args };

const bound = await client.chat.completions.create({
  model, messages, max_tokens: 64,
  response_format: { type: "json_schema", json_schema: { name: "verdict", schema, strict: true } },
});
told.schema = bound.choices[0].message.content;

const { data, response } = await client.chat.completions.create(
  { model, messages, max_tokens: 3000, stream: true, ignore_eos: true },
  { headers: { "X-Request-ID": "from-javascript" } },
).withResponse();
told.requestId = response.headers.get("x-request-id");
told.cancelled = response.headers.get("x-wwwmarket-award");
for await (const _ of data) { data.controller.abort(); break; }

try {
  await client.chat.completions.create({ model: "nobody/has-it", messages });
} catch (error) {
  told.error = { status: error.status, code: error.code };
}
told.models = (await client.models.list()).data.map((one) => one.id);
console.log(JSON.stringify(told));
