// The calls of a list, in Node with the SDK's two clients, behind the smallest loop over Lambda's Runtime API;
// bundled into one file by scripts/bench.
import { DynamoDBClient, QueryCommand, UpdateItemCommand } from "@aws-sdk/client-dynamodb";
import { KMSClient } from "@aws-sdk/client-kms";

const dynamodb = new DynamoDBClient({});
new KMSClient({});
const TableName = process.env.TABLE_NAME;
const s = (text) => ({ S: text });
const n = (number) => ({ N: String(number) });
const pk = s("USER#user_aaaaaaaa1");

async function list() {
  const count = new UpdateItemCommand({
    TableName, Key: { pk, sk: s("USE#read#node") }, UpdateExpression: "ADD n :one SET #ttl = :ttl",
    ExpressionAttributeNames: { "#ttl": "ttl" }, ExpressionAttributeValues: { ":one": n(1), ":ttl": n(1900000000) },
    ReturnValues: "UPDATED_NEW",
  });
  const query = new QueryCommand({
    TableName, KeyConditionExpression: "pk = :pk AND sk BETWEEN :first AND :last", Select: "SPECIFIC_ATTRIBUTES",
    ConsistentRead: true, ExpressionAttributeNames: { "#status": "status" },
    ProjectionExpression: "pk, sk, kid, ver, hint, #status, enabled, expires_at, description, created_at, updated_at, checked_at, last_used_at",
    ExpressionAttributeValues: { ":pk": pk, ":first": s("KEY#"), ":last": s("PREV#~") },
  });
  const [, rows] = await Promise.all([dynamodb.send(count), dynamodb.send(query)]);
  return { keys: rows.Items.map((item) => "*".repeat(12) + item.hint.S) };
}

const base = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
for (;;) {
  const next = await fetch(`${base}/next`);
  const id = next.headers.get("lambda-runtime-aws-request-id");
  await next.json();
  const answer = { statusCode: 200, headers: {}, body: JSON.stringify(await list()), isBase64Encoded: false };
  await (await fetch(`${base}/${id}/response`, { method: "POST", body: JSON.stringify(answer) })).text();
}
