//We are using axios to send requests in our example
const axios = require('axios');
async function (){
try{
const response = await axios({
method: 'post',
url: 'https://appname.metered.live/api/v1/room',
data: {
roomName: 'demo_room',
privacy: 'private',
expireUnixSec: 7832947982,
ejectAtRoomExp: true,
maxParticipants: 4,
autoJoin: true,
enableRequestToJoin: true,
recordRoom: true,
deleteOnExp: true,
ejectAfterElapsedTimeInSec: 7200
},
params: {
secretKey: 'your_secret_key'
},
})
console.log(response)
} catch(error){
console.log(error)
}
}
