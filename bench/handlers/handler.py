"""The same calls as `bare` makes, in Python with boto3, behind the smallest loop over Lambda's Runtime API:
what a Python function costs. `handler.py list|save|open|generate`"""

import http.client
import json
import os
import sys
import uuid

import boto3
from botocore.config import Config

PERSON, KID = "user_aaaaaaaa1", "01ARZ3NDEKTSV4RRFFQ69G5FAV"
config = Config(retries={"mode": "standard"})
dynamodb = boto3.client("dynamodb", config=config)
kms = boto3.client("kms", config=config)
table, key_arn = os.environ["TABLE_NAME"], os.environ["KMS_KEY_ARN"]


def s(text):
    return {"S": text}


def n(number):
    return {"N": str(number)}


def key(sort):
    return {"pk": s(f"USER#{PERSON}"), "sk": s(sort)}


def context(kid):
    return {"purpose": "user-api-key", "ctxv": "2", "env": "bench", "user_id": PERSON, "provider": "gemini", "kid": kid}


def plaintext(kid, secret):
    """As the functions seal: the key behind its binding."""
    parts = (part.encode() for part in ("bench", PERSON, "gemini", kid, secret))
    return b"\x02" + b"".join(len(part).to_bytes(2) + part for part in parts)


def count(limit):
    dynamodb.update_item(TableName=table, Key=key(f"USE#{limit}#python"), UpdateExpression="ADD n :one SET #ttl = :ttl",
        ExpressionAttributeNames={"#ttl": "ttl"}, ExpressionAttributeValues={":one": n(1), ":ttl": n(1_900_000_000)},
        ReturnValues="UPDATED_NEW")


def row():
    return dynamodb.get_item(TableName=table, Key=key("KEY#gemini"), ConsistentRead=True).get("Item")


def record():
    return {**key(f"AUDIT#{uuid.uuid4()}"), "at": s("2026-11-24T00:00:00Z"), "action": s("use"), "function": s("python"),
        "request_id": s("8476a536-e9f4-11e8-9739-2dfe598c3fcd"), "outcome": s("ok"), "provider": s("gemini"),
        "kid": s(KID), "ttl": n(1_900_000_000)}


def opened(item):
    dynamodb.put_item(TableName=table, Item=record())
    answer = kms.decrypt(KeyId=key_arn, CiphertextBlob=item["ct"]["B"], EncryptionContext=context(item["kid"]["S"]))
    return answer["Plaintext"][len(plaintext(item["kid"]["S"], "")):].decode()


def list_keys():
    count("read")
    rows = dynamodb.query(TableName=table, KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
        Select="SPECIFIC_ATTRIBUTES", ConsistentRead=True, ExpressionAttributeNames={"#status": "status"},
        ProjectionExpression="pk, sk, kid, ver, hint, #status, enabled, expires_at, description, created_at, updated_at, "
        "checked_at, last_used_at",
        ExpressionAttributeValues={":pk": s(f"USER#{PERSON}"), ":first": s("KEY#"), ":last": s("PREV#~")})
    return {"keys": ["*" * 12 + item["hint"]["S"] for item in rows["Items"]]}


def save():
    count("save")
    old, kid = row(), uuid.uuid4().hex[:26].upper()
    sealed = kms.encrypt(KeyId=key_arn, Plaintext=plaintext(kid, "AQ.my-own-gemini-key-0001"), EncryptionContext=context(kid))
    item = {**key("KEY#gemini"), "fmt": s("kms2"), "ctxv": s("2"), "kid": s(kid), "cmk": s(key_arn), "ver": n(1), "rev": n(1),
        "hint": s("0001"), "status": s("unverified"), "enabled": {"BOOL": True}, "created_at": s("2026-11-24T00:00:00Z"),
        "updated_at": s("2026-11-24T00:00:00Z"), "ct": {"B": sealed["CiphertextBlob"]}}
    puts = [item, record()] + ([{**old, **key("PREV#gemini")}] if old else [])
    dynamodb.transact_write_items(TransactItems=[{"Put": {"TableName": table, "Item": put}} for put in puts])
    return {"status": "saved"}


def open_key():
    return {"keys": {"gemini": {"api_key": opened(row())}}}


def generate():
    count("minute")
    count("day")
    secret = opened(row())
    response = pool.request("POST", f"{provider}/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
        headers={"x-goog-api-key": secret}, json={"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]})
    events = [json.loads(line[6:]) for line in response.data.decode().splitlines() if line.startswith("data: ")]
    dynamodb.update_item(TableName=table, Key=key("USAGE#2026-11-24#gemini"), ExpressionAttributeNames={"#ttl": "ttl"},
        UpdateExpression="ADD calls :one, prompt_tokens :prompt, output_tokens :output SET #ttl = :ttl",
        ExpressionAttributeValues={":one": n(1), ":prompt": n(5), ":output": n(5), ":ttl": n(1_900_000_000)})
    return {"content": "".join(event["candidates"][0]["content"]["parts"][0]["text"] for event in events)}


sequence = sys.argv[1]
act = {"list": list_keys, "save": save, "open": open_key, "generate": generate}[sequence]
if sequence == "generate":
    import urllib3  # boto3's own

    pool, provider = urllib3.PoolManager(), os.environ["GEMINI_BASE_URL"]
runtime = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
base = "/2018-06-01/runtime/invocation"
while True:
    runtime.request("GET", f"{base}/next")
    response = runtime.getresponse()
    request_id = response.headers["lambda-runtime-aws-request-id"]
    json.loads(response.read())
    answer = act()
    if sequence != "open":
        answer = {"statusCode": 200, "headers": {}, "body": json.dumps(answer), "isBase64Encoded": False}
    runtime.request("POST", f"{base}/{request_id}/response", body=json.dumps(answer))
    runtime.getresponse().read()
