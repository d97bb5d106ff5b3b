// A customer's webhook receiver, as a process of its own: it checks every request with the `standardwebhooks` library, and
// writes it to its output as one line of JSON. The first line is its port.
//
// usage: node receiver.mjs <port, 0 for a free one> <status to answer with>     the secret is in WEBHOOK_SECRET
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const [port, status] = process.argv.slice(2).map(Number);
const webhook = new Webhook(process.env.WEBHOOK_SECRET ?? "");

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) {
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks).toString();
  const headers = /** @type {Record<string, string>} */ (request.headers);
  let problem = null;
  try {
    webhook.verify(body, headers);
  } catch (error) {
    problem = String(error);
  }
  write({ id: headers["webhook-id"], path: request.url, status, problem, body: JSON.parse(body) });
  response.writeHead(status ?? 500).end();
});
server.listen(port, "127.0.0.1", () => write({ port: /** @type {any} */ (server.address()).port }));

/** @param {unknown} line */
function write(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
