"""The poll script that people write: a process an action, botocore, one DescribeInstances. Arguments: URL and id."""

from __future__ import annotations

import sys

from botocore.session import Session

url, instance_id = sys.argv[1:]
client = Session().create_client(
    "ec2", region_name="eu-west-1", endpoint_url=url, aws_access_key_id="A", aws_secret_access_key="s"
)
answer = client.describe_instances(InstanceIds=[instance_id])
instance = answer["Reservations"][0]["Instances"][0]
print(f"STATE={'a' if instance['State']['Name'] == 'running' else 'd'} AWS_IP_ADDRESS={instance['PublicIpAddress']}")
