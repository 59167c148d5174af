"""credstash on the embedded DynamoDB and KMS: one secret, and all of 20. Prints milliseconds. For scripts/bench."""

import json
import os
import statistics
import sys
import time

import credstash

runs, key_arn = int(sys.argv[1]), sys.argv[2]
session = {"aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "not-verified", "aws_session_token": None}


def data_key(service, number_of_bytes):
    """The embedded KMS has no GenerateDataKey, which only the filling needs: a random key, sealed."""
    key = os.urandom(number_of_bytes)
    sealed = service.kms.encrypt(KeyId=service.key_id, Plaintext=key, EncryptionContext=service.encryption_context)
    return key, sealed["CiphertextBlob"]


credstash.KeyService.generate_key_data = data_key
credstash.createDdbTable(region="us-east-1", table="credential-store", **session)
for n in range(20):
    credstash.putSecret(f"secret-{n:02}", f"AQ.my-own-key-{n:04}", kms_key=key_arn, region="us-east-1", **session)


def spread(work):
    work()
    walls = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        walls.append((time.perf_counter() - begun) * 1000)
    return {"median": statistics.median(walls), "min": min(walls), "max": max(walls), "runs": runs}


get = spread(lambda: credstash.getSecret("secret-07", region="us-east-1", **session))
everything = spread(lambda: credstash.getAllSecrets(region="us-east-1", session=credstash.get_session(**session), **session))
print(json.dumps({"get": get, "getall_of_20": everything}))
