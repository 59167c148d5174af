import { createClient } from "../dist/index.js";
import { events } from "../dist/events.js";
import { run } from "./client.test.mjs";

const passed = await run({ createClient, events, baseUrl: process.env.BASE_URL, token: process.env.TOKEN });
console.log(`${passed.length} tests in Node ${process.version}`);
