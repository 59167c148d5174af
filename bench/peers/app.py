"""Keys as the app's Python back end keeps them: FastAPI, SQLAlchemy, PostgreSQL, nothing encrypted; as little
code as shows it fairly, with the same Clerk token verified. For scripts/bench."""

import os
from datetime import datetime, timezone
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import DateTime, String, create_engine, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["DATABASE_URL"], pool_size=32, max_overflow=32)
public_key = os.environ["CLERK_JWT_KEY"]


class Base(DeclarativeBase):
    pass


class ApiKey(Base):
    __tablename__ = "api_keys"
    user_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    provider: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(1024))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Save(BaseModel):
    provider: str
    api_key: str


app = FastAPI()


def tables() -> None:
    """Once, before the workers start."""
    Base.metadata.create_all(engine)


def user(authorization: Annotated[str, Header()]) -> str:
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), public_key, algorithms=["RS256"],
            issuer="https://clerk.test", options={"verify_aud": False})
        return str(claims["sub"])
    except (jwt.InvalidTokenError, KeyError) as error:
        raise HTTPException(401) from error


@app.post("/api/onboarding/api-keys")
def save(body: Save, user_id: Annotated[str, Depends(user)]) -> dict[str, str]:
    now = datetime.now(timezone.utc)
    row = insert(ApiKey).values(user_id=user_id, provider=body.provider, key=body.api_key, updated_at=now)
    row = row.on_conflict_do_update(index_elements=["user_id", "provider"], set_={"key": body.api_key, "updated_at": now})
    with Session(engine) as session:
        session.execute(row)
        session.commit()
    return {"message": "saved", "provider": body.provider, "status": "saved"}


@app.get("/api/onboarding/api-keys")
def keys(user_id: Annotated[str, Depends(user)]) -> dict[str, dict[str, str]]:
    with Session(engine) as session:
        rows = session.scalars(select(ApiKey).where(ApiKey.user_id == user_id))
        return {"api_keys": {row.provider: "*" * 12 + row.key[-4:] for row in rows}}
