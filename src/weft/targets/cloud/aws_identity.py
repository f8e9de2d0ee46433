"""Who this instance is: region and VPC, from the instance's metadata service. Used by `aws.py`, only where flags and
environment don't say. Paths: Amazon EC2 User Guide, "Instance metadata categories".

It is botocore's own fetcher: tokens (IMDSv2), AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT and the
timeouts of AWS' settings are heeded as in every program that uses boto3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, MetadataRetrievalError
from botocore.utils import IMDSFetcher

from weft.errors import TargetError
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud.pace import look_at_the_fence

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

CONNECT_WITHIN, ANSWER_WITHIN = 2, 15
"""Seconds. A stop waits for the call that is under way. A request is sent within the first after the fence was looked
at, and the election leaves a margin for that."""
MACS = "latest/meta-data/network/interfaces/macs/"
REGION = "latest/meta-data/placement/region"
MAC = "latest/meta-data/mac"

Asked = Callable[[str], str]


class Metadata(IMDSFetcher):
    """The metadata service, as a session's settings say that it is to be asked."""

    def __init__(self, session: boto3.session.Session) -> None:
        settings = session._session
        names = ("ec2_metadata_service_endpoint", "ec2_metadata_service_endpoint_mode", "ec2_metadata_v1_disabled")
        super().__init__(
            timeout=settings.get_config_variable("metadata_service_timeout"),
            num_attempts=settings.get_config_variable("metadata_service_num_attempts"),
            user_agent=settings.user_agent(),
            config={name: settings.get_config_variable(name) for name in names},
        )

    def ask(self, path: str) -> str:
        """What stands at `path`. Raises MetadataRetrievalError or another BotoCoreError."""
        try:
            token = self._fetch_metadata_token()  # type: ignore[attr-defined]
            return str(self._get_request(path, None, token).text).strip()  # type: ignore[attr-defined]
        except self._RETRIES_EXCEEDED_ERROR_CLS as error:  # type: ignore[attr-defined]
            raise MetadataRetrievalError(error_msg=f"no answer about {path}") from error


def session() -> boto3.session.Session:
    """boto3's own: environment, profile, files. AWS_REGION counts too, which botocore leaves to other SDKs."""
    region = os.environ.get("AWS_REGION", "") or None
    return boto3.session.Session() if region is None else boto3.session.Session(region_name=region)


def connect(settings: RouteManagerSettings) -> EC2Client:
    """A client for the region of the flag, else the environment's, else this instance's. It blocks. Raises TargetError
    outside of AWS if nobody says a region."""
    logging.getLogger("botocore.credentials").setLevel(logging.WARNING)  # where it found some is told at each start
    chosen = session()
    try:
        region = settings.aws_region or chosen.region_name or Metadata(chosen).ask(REGION)
        client = chosen.client(
            "ec2",
            region_name=region,
            endpoint_url=settings.aws_endpoint or None,
            config=Config(
                connect_timeout=CONNECT_WITHIN,
                read_timeout=ANSWER_WITHIN,
                retries={"total_max_attempts": 1, "mode": "standard"},
                user_agent_extra="weft-route-manager",
            ),
        )
        client.meta.events.register("before-send.ec2", _ready_to_send)
        return client
    except MetadataRetrievalError as error:
        raise TargetError(
            f"the region is not known: -aws-region, AWS_REGION and the profile don't say it, and this host's metadata "
            f"service does not answer ({error}): outside of AWS, give -aws-region"
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise TargetError(f"the EC2 API can't be used: {error}") from error


def _ready_to_send(**_: object) -> None:
    """Until here, credentials may have been asked for anew, which takes its time."""
    look_at_the_fence()


def own_vpc() -> str:
    """The VPC of this instance's first interface. It blocks. Raises TargetError outside of AWS."""
    try:
        metadata = Metadata(session())
        return metadata.ask(f"{MACS}{metadata.ask(MAC)}/vpc-id")
    except (BotoCoreError, ValueError) as error:
        raise TargetError(
            f"the VPC is not known: this host's metadata service does not answer ({error}): outside of AWS, give "
            "-aws-route-table=rtb-…, or -aws-vpc=vpc-…"
        ) from error
