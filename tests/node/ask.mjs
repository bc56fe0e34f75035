// Asks a gateway by OpenAI's own client for Node and prints, as JSON, what it was told.
//
// The model's name says what the upstream is to do; see tests/end_to_end/test_openai_node.py.

import OpenAI from "openai";

const messages = [{ role: "user", content: "hi" }];
const client = new OpenAI({
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  maxRetries: 0,
});
const chat = client.chat.completions;

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

async function failure(asking) {
  try {
    return { answered: await asking };
  } catch (error) {
    return {
      class: error.constructor.name,
      status: error.status,
      code: error.code,
      type: error.type,
      param: error.param,
      message: error.message,
      requestID: error.requestID,
    };
  }
}

const scenarios = {
  async text() {
    const { data, response } = await chat.create({ model: "text", messages }).withResponse();
    return { data, headers: Object.fromEntries(response.headers) };
  },
  async stream() {
    return collect(await chat.create({ model: "text", messages, stream: true }));
  },
  async usage() {
    const stream_options = { include_usage: true };
    return collect(await chat.create({ model: "text", messages, stream: true, stream_options }));
  },
  async tools() {
    return chat.stream({ model: "tools", messages }).finalChatCompletion();
  },
  async schema() {
    const schema = { type: "object", properties: { n: { type: "integer" } } };
    const response_format = { type: "json_schema", json_schema: { name: "n", strict: true, schema } };
    const said = await chat.parse({ model: "schema", messages, response_format });
    return said.choices[0].message.parsed ?? JSON.parse(said.choices[0].message.content);
  },
  async image() {
    const url = "data:image/png;base64,iVBORw0KGgo=";
    const content = [
      { type: "text", text: "what?" },
      { type: "image_url", image_url: { url } },
    ];
    await chat.create({ model: "echo", messages: [{ role: "user", content }], x_unknown: { a: 1 } });
  },
  async embeddings() {
    return (await client.embeddings.create({ model: "vectors", input: ["one"] })).data;
  },
  async floats() {
    const asked = { model: "vectors", input: "one", encoding_format: "float" };
    return (await client.embeddings.create(asked)).data;
  },
  async completions() {
    const asked = { model: "old", prompt: "say" };
    const whole = await client.completions.create(asked);
    const parts = await collect(await client.completions.create({ ...asked, stream: true }));
    return [whole.choices[0].text, parts.map((part) => part.choices[0].text)];
  },
  async models() {
    const listed = await collect(await client.models.list());
    const found = await client.models.retrieve("acme/llama-3/8b");
    return { listed: listed.map((model) => model.id), found: found.id };
  },
  async errors() {
    const told = {};
    for (const status of [400, 401, 404, 409, 422, 429, 500, 503]) {
      told[status] = await failure(chat.create({ model: `status-${status}`, messages }));
    }
    return told;
  },
  async wrongKey() {
    const other = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "sk-wrong", maxRetries: 0 });
    return failure(other.chat.completions.create({ model: "text", messages }));
  },
  async cut() {
    const said = [];
    const failed = await failure(
      (async () => {
        for await (const part of await chat.create({ model: "cut", messages, stream: true })) {
          said.push(part.choices[0].delta.content);
        }
      })(),
    );
    return { said, failed };
  },
  async retried() {
    return (await chat.create({ model: "second-time", messages }, { maxRetries: 2 })).id;
  },
  async notRepeated() {
    return failure(chat.create({ model: "patient", messages }, { maxRetries: 2 }));
  },
  async timeout() {
    return failure(chat.create({ model: "never", messages }, { timeout: 200 }));
  },
};

// One scenario of its own: the process lives on, so that only the early close can close anything.
async function leaves() {
  const stream = await chat.create({ model: "stalls", messages, stream: true });
  for await (const part of stream) {
    if (part.choices[0].delta.content) break;
  }
  console.log("left");
  await new Promise((over) => process.stdin.on("end", over).resume());
}

if (process.argv[2] === "leaves") {
  await leaves();
} else {
  const told = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    told[name] = (await scenario()) ?? null;
  }
  console.log(JSON.stringify(told));
}
