"""The roles and key policies of template.yaml, as CloudFormation would make them.

Transforms the template with SAM's own translator, then puts values in the place of CloudFormation's
functions, once for each way in which the KMS keys can be set. Prints JSON.
"""
import json
import logging
import os
import re
import sys

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
logging.disable(logging.WARNING)
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

PSEUDO = {"AWS::StackName": "keys-test", "AWS::Partition": "aws", "AWS::AccountId": "111122223333",
          "AWS::Region": "us-east-1", "AWS::URLSuffix": "amazonaws.com"}
GIVEN = {"ClerkIssuer": "https://clerk.test", "ClerkAuthorizedParties": "https://app.test",
         "AllowedOrigins": "https://app.test", "ClerkJwtKey": "PEM", "AlarmEmail": "ops@app.test",
         "WebAcl": "true"}
KMS_KEYS = {"KmsKeyA": "key/aaaaaaaa-0000-4000-8000-000000000000", "KmsKeyB": "key/bbbbbbbb-0000-4000-8000-000000000000"}
SERVICES = {"AWS::DynamoDB::Table": ("dynamodb", "table/"), "AWS::Lambda::Function": ("lambda", "function:"),
            "AWS::SQS::Queue": ("sqs", ""), "AWS::StepFunctions::StateMachine": ("states", "stateMachine:"),
            "AWS::IAM::Role": ("iam", "role/"), "AWS::SNS::Topic": ("sns", ""), "AWS::Logs::LogGroup": ("logs", "log-group:")}
REMOVED = object()


class Stack:
    def __init__(self, template, parameters):
        self.template = template
        self.values = {name: p.get("Default") for name, p in template["Parameters"].items()} | GIVEN | parameters

    def arn(self, name):
        resource = self.template["Resources"][name]
        if name in KMS_KEYS:
            service, path = "kms", KMS_KEYS[name]
        else:
            service, prefix = SERVICES[resource["Type"]]
            path = prefix + self.name(name)
        if service == "logs":
            path += ":*"
        region = "" if service == "iam" else PSEUDO["AWS::Region"]
        return f"arn:aws:{service}:{region}:{PSEUDO['AWS::AccountId']}:{path}"

    def name(self, name):
        """The physical name: as given, or as CloudFormation makes one up."""
        properties = self.template["Resources"][name]["Properties"]
        for given in ("FunctionName", "StateMachineName", "LogGroupName"):
            if given in properties:
                return self.resolve(properties[given])
        path = self.resolve(properties.get("Path", "/")).lstrip("/")
        return f"{path}{PSEUDO['AWS::StackName']}-{name}-1A2B3C"

    def holds(self, condition):
        return self.truth(self.template["Conditions"][condition])

    def truth(self, condition):
        (function, of), = condition.items()
        match function:
            case "Condition": return self.holds(of)
            case "Fn::Equals": return str(self.resolve(of[0])) == str(self.resolve(of[1]))
            case "Fn::Not": return not self.truth(of[0])
            case "Fn::And": return all(self.truth(part) for part in of)
            case "Fn::Or": return any(self.truth(part) for part in of)
        raise SystemExit(f"unknown condition {function}")

    def ref(self, name):
        if name == "AWS::NoValue":
            return REMOVED
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.values:
            return self.values[name]
        kind = self.template["Resources"][name]["Type"]
        return self.name(name) if kind in ("AWS::DynamoDB::Table", "AWS::Lambda::Function") else self.arn(name)

    def resolve(self, value):
        if isinstance(value, list):
            return [found for found in map(self.resolve, value) if found is not REMOVED]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (function, of), = value.items()
            match function:
                case "Ref": return self.ref(of)
                case "Fn::If": return self.resolve(of[1] if self.holds(of[0]) else of[2])
                case "Fn::Join": return of[0].join(self.resolve(of[1]))
                case "Fn::Sub": return self.substituted(of)
                case "Fn::GetAtt":
                    name, attribute = of if isinstance(of, list) else of.split(".", 1)
                    if attribute != "Arn":
                        raise SystemExit(f"{name}.{attribute} is not known here")
                    if not self.holds_resource(name):
                        raise SystemExit(f"{name} is used and not made")
                    return self.arn(name)
        return {key: found for key, found in ((k, self.resolve(v)) for k, v in value.items()) if found is not REMOVED}

    def substituted(self, text):
        return re.sub(r"\$\{([^}]+)\}", lambda found: str(self.resolve(
            {"Fn::GetAtt": found[1]} if "." in found[1] else {"Ref": found[1]})), text)

    def holds_resource(self, name):
        condition = self.template["Resources"][name].get("Condition")
        return condition is None or self.holds(condition)

    def functions(self):
        """Each function's logical name, by the name that roles.txt gives it."""
        return {self.name(name).removeprefix(PSEUDO["AWS::StackName"] + "-"): name
                for name, resource in self.template["Resources"].items() if resource["Type"] == "AWS::Lambda::Function"}

    def roles(self):
        roles, policies = {}, {}
        for name, resource in self.template["Resources"].items():
            if not self.holds_resource(name):
                continue
            if resource["Type"] == "AWS::KMS::Key":
                policies[self.arn(name)] = self.resolve(resource["Properties"]["KeyPolicy"])
            if resource["Type"].startswith("AWS::IAM::") and resource["Type"] != "AWS::IAM::Role":
                raise SystemExit(f"{name} gives permissions in a way that is not looked at here")
            if resource["Type"] == "AWS::IAM::Role":
                properties = self.resolve(resource["Properties"])
                roles[name] = {"arn": self.arn(name), "managed": properties.get("ManagedPolicyArns", []),
                               "trusts": properties["AssumeRolePolicyDocument"],
                               "policies": [p["PolicyDocument"] for p in properties.get("Policies", [])]}
        for function, name in self.functions().items():
            role = self.template["Resources"][name]["Properties"]["Role"]["Fn::GetAtt"][0]
            roles[role]["function"] = function
        return {"table": self.arn("Table"), "stack": PSEUDO["AWS::StackName"], "roles": roles, "key_policies": policies,
                "sealing": self.resolve({"Fn::If": ["SealsWithA", {"Fn::GetAtt": ["KmsKeyA", "Arn"]}, {"Fn::GetAtt": ["KmsKeyB", "Arn"]}]}),
                "keys": [arn for arn in map(self.arn, KMS_KEYS)]}


def transformed(path):
    template = yaml_parse(open(path).read())
    for resource in template["Resources"].values():
        # What `sam package` puts in their place.
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
        if resource["Type"] == "AWS::Serverless::StateMachine":
            resource["Properties"]["DefinitionUri"] = "s3://bucket/key"
    return Translator({}, Parser()).translate(template, dict(GIVEN))


if __name__ == "__main__":
    template = transformed(sys.argv[1])
    if "--template" in sys.argv:
        print(json.dumps(template, indent=1))
    else:
        settings = [("A", "sealing"), ("A", "both"), ("B", "both"), ("B", "sealing")]
        print(json.dumps([Stack(template, {"SealingKey": s, "OpeningKeys": o}).roles() for s, o in settings], indent=1))
